"""Every kind of array gives the same bits as a contiguous copy of it, and is never written to."""

import numpy as np
import pytest

import fastnn as fn
from fastnn.cpu import outputs, steps

N = 12
RNG = np.random.default_rng(0)
# Small whole numbers, exact in every dtype below.
X = RNG.integers(0, 2, (N, 4)).astype("float32")
LABELS = np.arange(N) % 3
DENSE = RNG.integers(0, 2, (N, 3)).astype("float32")
WEIGHTS = np.arange(N) % 2 + 1.0


def strided(array):
    """Every second element in each direction of a larger array."""
    large = np.full([2 * n for n in array.shape], 7, array.dtype)
    view = large[(slice(1, None, 2),) * array.ndim]
    view[...] = array
    return view


def reversed_view(array):
    """Negative strides."""
    flip = (slice(None, None, -1),) * array.ndim
    return array[flip].copy()[flip]


def unaligned(array):
    memory = np.frombuffer(b"\0" + array.tobytes(), np.uint8)[1:]
    return memory.view(array.dtype).reshape(array.shape)


def read_only(array):
    frozen = array.copy()
    frozen.setflags(write=False)
    return frozen


def memory_map(array, folder, mode):
    path = folder / f"{abs(hash(array.tobytes()))}{mode}.npy"
    np.save(path, array)
    return np.load(path, mmap_mode=mode)


def frame(array):
    pandas = pytest.importorskip("pandas")
    index = np.linspace(3, 1, len(array))  # labels that are not positions
    return pandas.DataFrame(array, index=index) if array.ndim == 2 else pandas.Series(array, index=index)


def nullable(array):
    pandas = pytest.importorskip("pandas")
    table = frame(array.astype(int))
    return table.astype(pandas.Int64Dtype())


KINDS = {
    "list": lambda a, folder: a.tolist(),
    "tuple": lambda a, folder: tuple(tuple(row) if a.ndim == 2 else row for row in a.tolist()),
    "list of rows": lambda a, folder: list(a),
    "frame": lambda a, folder: frame(a),
    "nullable frame": lambda a, folder: nullable(a),
    "object": lambda a, folder: a.astype(object),
    "Fortran": lambda a, folder: np.asfortranarray(a),
    "strided": lambda a, folder: strided(a),
    "negative strides": lambda a, folder: reversed_view(a),
    "broadcast": lambda a, folder: np.broadcast_to(a, (2, *a.shape))[0],
    "unaligned": lambda a, folder: unaligned(a),
    "read-only": lambda a, folder: read_only(a),
    "read-only Fortran": lambda a, folder: read_only(np.asfortranarray(a)),
    "memory map": lambda a, folder: memory_map(a, folder, "r"),
    "writable memory map": lambda a, folder: memory_map(a, folder, "r+"),
    "masked, nothing hidden": lambda a, folder: np.ma.array(a),
    "subclass": lambda a, folder: a.view(type("Sub", (np.ndarray,), {})),
    **{
        name: lambda a, folder, name=name: a.astype(name)
        for name in (">f4", ">f8", "float16", "float32", "float64", "longdouble", "int8", "uint8", ">i4", "uint64")
    },
}  # fmt: skip


def content(value):
    return np.array(value, dtype=float).tobytes()


def network(dtype):
    layers = [fn.Dense(5, "tanh"), fn.Dropout(0.2), fn.BatchNorm(), fn.Dense(3, "softmax")]
    return fn.Sequential(layers, n_inputs=4, seed=1, dtype=dtype)


def everything(dtype, x, labels, dense, weights):
    """Bits of all that a network gives for these arrays."""
    net = network(dtype)
    data = {"sample_weight": weights, "validation_data": (x, labels, weights)}
    history = net.fit(x, labels, epochs=2, batch_size=5, metrics="accuracy", **data)
    history_of_split = net.fit(x, dense, "mse", epochs=1, batch_size=5, validation_split=0.25, metrics=["mse", "r2"])
    value, gradients = net.loss_and_gradients(x, labels, "cross_entropy", weights)
    v = np.linspace(-1, 1, net.n_parameters)
    arrays = [
        net.parameters,
        *net.named_buffers().values(),
        net.predict(x),
        net.predict_classes(x),
        net.input_gradients(x, dense, "mse", weights),
        net.jacobian(x),
        net.hessian_vector_product(x, labels, "cross_entropy", v, weights),
        *gradients.values(),
    ]
    results = [
        value,
        net.evaluate(x, labels, "cross_entropy", ["accuracy", "f1"], weights),
        net.evaluate(x, dense, "mse", ["mse", "r2"], weights),
        [history.loss, history.val_loss, history.metrics, history_of_split.val_loss, history_of_split.metrics],
    ]
    return [array.tobytes() for array in arrays], results


@pytest.fixture(scope="module", params=["float32", "float64"])
def expected(request):
    arrays = (X.astype(request.param), LABELS, DENSE.astype(request.param), WEIGHTS.astype(request.param))
    return request.param, everything(request.param, *arrays)


@pytest.mark.parametrize("kind", KINDS)
def test_same_bits_as_a_contiguous_copy(kind, expected, tmp_path):
    dtype, (bits, results) = expected
    given = [KINDS[kind](array, tmp_path) for array in (X, LABELS, DENSE, WEIGHTS)]
    before = [content(array) for array in given]
    found_bits, found_results = everything(dtype, *given)
    assert found_bits == bits
    assert found_results == results
    assert [content(array) for array in given] == before


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_booleans(dtype):
    net, same = network(dtype), network(dtype)
    labels, heavy = X[:, 0] > 0, WEIGHTS > 1
    net.fit(X > 0, labels, epochs=2, sample_weight=heavy)
    same.fit(X, labels.astype(int), epochs=2, sample_weight=heavy.astype(dtype))
    np.testing.assert_array_equal(net.parameters, same.parameters)
    np.testing.assert_array_equal(net.predict(X > 0), same.predict(X))


def test_a_column_of_labels_is_like_labels():
    one, two = network("float32"), network("float32")
    one.fit(X, LABELS, epochs=2)
    two.fit(X, LABELS[:, None].astype("float64"), epochs=2)
    np.testing.assert_array_equal(one.parameters, two.parameters)


def test_mixed_frames_and_named_columns():
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"a": X[:, 0] > 0, "b": X[:, 1].astype(int), "c": X[:, 2], "d": X[:, 3].astype("float16")})
    net = network("float64")
    np.testing.assert_array_equal(net.predict(table), net.predict(X))
    np.testing.assert_array_equal(net.predict(table.astype(object)), net.predict(X))


def test_right_arrays_are_not_copied(monkeypatch):
    net = network("float32")
    seen = []
    monkeypatch.setattr(outputs, "predict", lambda work, share, x, out: seen.append(x))
    monkeypatch.setattr(outputs, "predict_few", lambda places, x, out: seen.append(x) or True)
    for array in (X, read_only(X), np.tile(X, (20, 1))):
        net.predict(array)
        assert np.shares_memory(seen[-1], array)


def test_read_only_arrays_compile_nothing():
    """To Numba an array that is marked read-only has another type."""
    kernels = [steps.train, steps.loss_and_gradients, outputs.predict, outputs.predict_few, outputs.jacobian]
    plain = everything("float32", X, LABELS, DENSE, WEIGHTS.astype("float32"))
    before = [len(k.signatures) for k in kernels]
    frozen = [read_only(a) for a in (X, LABELS.astype("float32"), DENSE, WEIGHTS.astype("float32"))]
    assert everything("float32", *frozen) == plain
    assert [len(k.signatures) for k in kernels] == before


def test_parameters_may_be_set_from_any_array(tmp_path):
    net = network("float32")
    values = {name: np.ones(view.shape) for name, view in net.named_parameters().items()}
    for kind, make in KINDS.items():
        net.parameters[:] = 0
        net.set_parameters({name: make(value, tmp_path) for name, value in values.items()})
        assert (net.parameters == 1).all(), kind
