"""Data on their way to the GPU's engine, in numba-cuda's simulator, beside what the host's checks say of the same data.

`test_cuda_simulator` runs this file, in a process of its own.
"""

import doctest
import re
import threading
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
from numba import cuda

import fastnn as fn
from fastnn import _checks
from fastnn.cuda import arrays, scan, streams, targets
from fastnn.cuda._jit import SIMULATED
from fastnn.losses import _targets
from fastnn.losses._base import BUILT_IN, Loss

# NumPy warns where a GPU goes on with an infinity or a NaN.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

REAL = [
    "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64",
]  # fmt: skip
ENGINE = ["float32", "float64"]
THING = object()
FakeArray = type(cuda.to_device(np.zeros(1)))
FakeKernel = type(scan.finite)
VIEWS = {
    "C": lambda x: x,
    "F": lambda x: np.asfortranarray(x),
    "transposed": lambda x: x[:5, :5].T,
    "sliced": lambda x: x[::2, 1::3],
    "reversed": lambda x: x[::-1, ::-1],
    "row": lambda x: x[3:4],
    "column": lambda x: x[:, 2:3],
    "broadcast": lambda x: np.broadcast_to(x[2], (4, x.shape[1])),
    "one element": lambda x: np.broadcast_to(x[:1, :1], (3, 5)),
}


def device(host):
    """A device array with the strides of a host array."""
    return FakeArray(host)


def data(dtype, shape=(9, 7)):
    x = np.random.default_rng(0).uniform(-100, 100, shape)
    return (x > 0) if dtype == "bool" else np.abs(x).astype(dtype) if dtype[0] == "u" else x.astype(dtype)


def same_memory(a, b):
    return a.__array_interface__["data"][0] == b.__array_interface__["data"][0]


def outcome(function, *arguments, **named):
    """What a function returns as a host array, or the error that it raises."""
    try:
        found = function(*arguments, **named)
    except (TypeError, ValueError) as error:
        return type(error), str(error)
    return tuple(map(host, found)) if isinstance(found, tuple) else host(found)


def host(array):
    return array.copy_to_host() if isinstance(array, FakeArray) else array


def assert_same(found, wanted):
    if isinstance(wanted, np.ndarray):
        assert isinstance(found, np.ndarray), found
        assert (found.dtype, found.shape, found.flags.c_contiguous) == (wanted.dtype, wanted.shape, True)
        np.testing.assert_array_equal(found, wanted)
    elif isinstance(wanted[0], np.ndarray):
        assert_same(found[0], wanted[0])
        assert found[1] is wanted[1]
    else:
        assert found == wanted


def test_this_is_the_simulator():
    assert SIMULATED


@pytest.mark.parametrize("engine", ENGINE)
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("dtype", REAL)
def test_matrix(dtype, view, engine):
    x = VIEWS[view](data(dtype))
    given = device(x)
    found = arrays.matrix("X", given, engine)
    assert_same(found.copy_to_host(), _checks.matrix("X", x, engine))
    assert same_memory(found, given) == (dtype == engine and x.flags.c_contiguous)


def test_a_matrix_of_many_blocks():
    x = data("float64", (61, 13))
    assert x.size > 8 * scan.THREADS * scan.blocks_for(x.size)
    assert_same(arrays.matrix("X", device(x.T), "float32").copy_to_host(), x.T.astype("float32"))


@pytest.mark.parametrize("x", [[[1, 2], [3, 4]], data("float32"), np.asfortranarray(data("int8"))], ids=str)
def test_a_matrix_of_the_host(x):
    found = arrays.matrix("X", x, "float32", 2 if isinstance(x, list) else None)
    assert isinstance(found, FakeArray)
    assert_same(found.copy_to_host(), np.ascontiguousarray(x, "float32"))


SHAPES = [(), (3,), (0,), (2, 3, 4), (0, 3), (3, 0), (4, 2), (4, 3)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_shapes_of_a_matrix(shape, dtype):
    x = np.ones(shape, dtype)
    for n_columns in (None, 1, 3):
        if shape == ():  # which the host takes for a number
            with pytest.raises(ValueError, match=r"X must have 2 dimensions \(samples, columns\), got shape \(\)"):
                arrays.matrix("X", device(x), "float32", n_columns)
            continue
        wanted = outcome(_checks.matrix, "X", x, "float32", n_columns=n_columns)
        assert_same(outcome(arrays.matrix, "X", device(x), "float32", n_columns), wanted)


@pytest.mark.parametrize("engine", ENGINE)
@pytest.mark.parametrize("view", ["C", "transposed", "sliced", "reversed"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_numbers_that_are_not_finite(dtype, view, engine):
    refused = 0
    for value in (np.nan, -np.inf, 4e38):
        for places in ([(0, 0)], [(8, 6), (2, 1)], [(3, 2)], [(2, 4), (3, 3), (6, 4)]):
            x = data(dtype)
            for place in places:
                x[place] = value
            x = VIEWS[view](x)
            wanted = outcome(_checks.matrix, "X", x, engine)
            assert_same(outcome(arrays.matrix, "X", device(x), engine), wanted)
            refused += not isinstance(wanted, np.ndarray)
    assert refused >= 2


@pytest.mark.parametrize("size", [1, 3, 4, 5, 33])
def test_every_place_is_looked_at(size):
    for at in range(size):
        x = np.zeros(size, "float32")
        x[at] = np.inf
        assert scan.first_infinite(device(x)) == at
    assert scan.first_infinite(device(np.full(size, 3e38, "float32"))) is None


def test_parts_are_looked_at_one_by_one():
    """Each with the numbers that belong to it, and not those behind them."""
    parts, apart, size = 5, 11, 9
    for wrong in ([], [(0, 0)], [(1, 8), (3, 4)], [(4, 8)], [(2, 9), (4, 10)]):
        x = np.ones((parts, apart), "float32")
        for k, (part, at) in enumerate(wrong):
            x[part, at] = (np.nan, -np.inf)[k]
        found = scan.parts_finite(device(x.reshape(x.size)), parts, size)
        assert found.tolist() == [(part not in {p for p, at in wrong if at < size}) for part in range(parts)]


@pytest.mark.parametrize("dtype", ["complex64", "complex128", "M8[s]", "m8[s]", "S3", "U3", "V2", ">f4", ">i8"])
def test_numbers_that_are_not_real(dtype):
    x = device(np.zeros((2, 2), dtype))
    for function, more in ((arrays.matrix, ()), (arrays.vector, (2,))):
        with pytest.raises(
            TypeError, match=f"X must hold real numbers, got .*dtype {re.escape(str(np.dtype(dtype)))}$"
        ):
            function("X", x, "float32", *more)
    with pytest.raises(TypeError, match="y must hold real numbers"):
        targets.prepare(fn.losses.MSE(), x, 2, "float32")


WEIGHTS = [
    [1, 2, 0, 4], [0.5, 0, 1e-30, 3], [0, 0, 0, 0], [1, -1, 2, 3], [1, 2, 3, -1e-6], [np.nan, 1, 1, 1],
    [1, 1, np.inf, 1], [1, -np.inf, 1, 1], [1, np.nan, -1, 1], [1, 2, 3, 1e300], [1, 2, 3], [1, 2, 3, 4, 5],
    [], [[1, 2, 3, 4]], [0, 0, 0, 2], [-0.0, 0, 0, 1],
]  # fmt: skip


@pytest.mark.parametrize("engine", ENGINE)
@pytest.mark.parametrize("w", WEIGHTS, ids=str)
def test_weights(w, engine):
    w = np.array(w, float)
    kinds = [w, np.repeat(w, 3)[::3], w[::-1].copy()[::-1]] if w.ndim == 1 else [w]
    if np.isfinite(w).all() and (w == np.floor(w)).all() and w.max(initial=0) < 10:
        kinds += [w.astype("int8"), w.astype("float16"), w.astype("float32")]
    for each in kinds:
        wanted = outcome(_checks.weights, "sample_weight", each, engine, 4)
        assert_same(outcome(arrays.vector, "sample_weight", device(each), engine, 4), wanted)
        assert_same(outcome(arrays.vector, "sample_weight", each, engine, 4), wanted)


def test_weights_keep_their_memory():
    w = device(np.ones(5, "float32"))
    assert same_memory(arrays.vector("w", w, "float32", 5), w)
    assert not same_memory(arrays.vector("w", w, "float64", 5), w)


# Targets


LABELS = np.array([0, 2, 1, 1, 0])
ROWS = np.array([[0.25, 0.5, 0.25], [0, 0, 1], [1 / 3, 1 / 3, 1 / 3], [1e-9, 1 - 1e-9, 0], [0.125, 0.375, 0.5]])


def changed(array, where, value):
    array = np.array(array, float)
    array[where] = value
    return array


TARGETS = {
    "labels": LABELS,
    "labels of two": LABELS % 2,
    "a column": LABELS[:, None],
    "logical": LABELS > 0,
    "unsigned": LABELS.astype("uint64"),
    "half": LABELS.astype("float16"),
    "large": np.array([0, 2**63 - 1, 1]),
    "unsigned and large": np.array([2**64 - 1, 0, 1], "uint64"),
    "large and whole": np.array([5.0, 2**52 + 1]),
    "large and whole, float32": np.array([5, 2**23 + 1], "float32"),
    "negative": LABELS - 1,
    "signs": np.array([1, -1, -1, 1]),
    "signs of 1 only": np.ones(3),
    "signs of -1 only": -np.ones(3),
    "signs and 0": np.array([0, -1, 1.0]),
    "signs of three": np.array([[1, -1, -1], [-1, -1, 1]]),
    "bits of three": np.array([[1, 0, 0], [0, 0, 1]], "int8"),
    "bits of two": np.array([[1, 0], [0, 1]], "float32"),
    "not whole": LABELS + np.array([0, 0, 1e-12, 0, 0]),
    "halves": np.array([0, 0.5, 1]),
    "halves, half": np.array([0, 0.5, 1], "float16"),
    "numbers": np.random.default_rng(1).normal(0, 3, 6),
    "numbers of two": np.random.default_rng(2).normal(0, 3, (4, 2)),
    "numbers of three": np.random.default_rng(3).normal(0, 3, (4, 3)),
    "numbers of one, float32": np.random.default_rng(3).normal(0, 3, (4, 1)).astype("float32"),
    "counts": np.array([0, 7, 3, 1e6]),
    "probabilities": np.array([0, 0.25, 1, 0.999]),
    "above 1": np.array([0, 0.25, 1 + 1e-12]),
    "rows": ROWS,
    "rows, float32": ROWS.astype("float32"),
    "rows, half": ROWS[:2].astype("float16"),
    "rows of two": np.array([[0.5, 0.5], [0.25, 0.75]]),
    "sum too small": changed(ROWS, (1, 2), 0.999),
    "sum nearly right": changed(ROWS, (1, 2), 1 - 0.9e-4),
    "sum a little too small": changed(ROWS, (1, 2), 1 - 1.1e-4),
    "rows below 0": changed(changed(ROWS, (2, 0), -1e-3), (2, 1), 2 / 3 + 1e-3),
    "nan": changed(ROWS, (3, 1), np.nan),
    "nan behind what is too large": changed(changed(ROWS, (3, 1), np.nan), (0, 0), 1e300),
    "infinity": changed(LABELS, 4, -np.inf),
    "too large": changed(LABELS, 4, 1e300),
    "too large, of three": changed(ROWS, (2, 1), -4e38),
    "empty": np.zeros(0),
    "no columns": np.zeros((3, 0)),
    "no rows": np.zeros((0, 3)),
    "three dimensions": np.zeros((2, 3, 1)),
}
KINDS = {
    _targets.regression_targets: "mse",
    _targets.count_targets: "poisson",
    _targets.binary_targets: "binary_cross_entropy",
    _targets.hinge_targets: "hinge",
    _targets.class_targets: "cross_entropy",
}


def test_every_kind_of_targets_is_known_and_tested():
    assert {loss._targets for loss in BUILT_IN.values()} == set(targets._TWINS) == set(KINDS)
    assert all(BUILT_IN[name]._targets is kind for kind, name in KINDS.items())


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("loss", KINDS.values())
def test_targets(loss, name):
    y = TARGETS[name]
    loss = fn.losses.get(loss)
    for n_outputs in (1, 2, 3):
        for engine in ENGINE:
            wanted = outcome(loss.prepare_targets, y, n_outputs, engine)
            assert_same(outcome(targets.prepare, loss, device(y), n_outputs, engine), wanted)


def test_targets_are_good_and_bad():
    """The table above tests something: each kind meets targets that it takes, for each number of outputs."""
    for name in KINDS.values():
        for n_outputs in (2, 3):
            found = [outcome(fn.losses.get(name).prepare_targets, y, n_outputs, "float32") for y in TARGETS.values()]
            taken = [each for each in found if isinstance(each[0], np.ndarray)]
            assert len(taken) >= 2
            assert len(found) - len(taken) >= 10


@pytest.mark.parametrize("loss", BUILT_IN)
def test_all_losses(loss):
    loss = fn.losses.get(loss)
    for name in ("labels", "negative", "numbers of three", "rows"):
        y = TARGETS[name]
        wanted = outcome(loss.prepare_targets, y, 3, "float32", name="target")
        for given in (device(y), y):
            assert_same(outcome(targets.prepare, loss, given, 3, "float32", "target"), wanted)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("loss", KINDS.values())
def test_targets_of_all_strides_and_dtypes(loss, dtype, view):
    loss = fn.losses.get(loss)
    y = VIEWS[view](data("float64") > 0).astype(dtype)
    rows = VIEWS[view](np.eye(9, 7)).astype(dtype)
    shuffled = np.asfortranarray(rows) if view in ("F", "transposed") else rows
    for each in (y, y[:, 0], shuffled, y[::-1, ::-1], y[:, 0][::-1]):
        n_outputs = each.shape[1] if each.ndim == 2 else 2
        wanted = outcome(loss.prepare_targets, each, n_outputs, "float32")
        assert_same(outcome(targets.prepare, loss, device(each), n_outputs, "float32"), wanted)


def test_long_rows_of_probabilities():
    """The sum of a row is found as well as in float64."""
    rng = np.random.default_rng(0)
    y = rng.dirichlet(np.ones(3000), 2).astype("float32")
    loss = fn.losses.CrossEntropy()
    assert_same(outcome(targets.prepare, loss, device(y), 3000, "float32"), (y, False))
    sparse = np.full((1, 8000), 2.9e-8, "float32")  # each of them less than what float32 tells apart next to 1
    sparse[0, 0] = 1 - 8000 * 2.9e-8
    assert abs(np.cumsum(sparse)[-1] - 1) > 2e-4
    assert_same(outcome(targets.prepare, loss, device(sparse), 8000, "float32"), (sparse, False))
    for excess, taken in ((0.9e-4, True), (1.1e-4, False)):
        off = (y * (1 + excess)).astype("float32")
        found = outcome(targets.prepare, loss, device(off), 3000, "float32")
        assert (found[0] is not ValueError) == taken
        assert_same(found, outcome(loss.prepare_targets, off, 3000, "float32"))


def test_targets_keep_their_memory():
    signs, labels = device(np.array([[1.0, -1.0]])), device(np.array([1.0, 0.0]))
    assert same_memory(targets.prepare(fn.losses.Hinge(), signs, 2, "float64")[0], signs)
    assert same_memory(targets.prepare(fn.losses.CrossEntropy(), labels, 2, "float64")[0], labels)
    assert not same_memory(targets.prepare(fn.losses.MSE(), labels, 1, "float32")[0], labels)


def test_a_user_s_loss_has_regression_targets():
    own = fn.losses.from_functions("quartic_on_device", lambda o, y: (o - y) ** 4, lambda o, y: 4 * (o - y) ** 3)
    y = np.array([1.5, -2.0])
    assert_same(outcome(targets.prepare, own, device(y), 1, "float32"), own.prepare_targets(y, 1, "float32"))


def test_a_new_kind_of_targets_is_not_taken_for_another():
    @dataclass(frozen=True)
    class Newer(Loss):
        name = "newer"
        _targets = staticmethod(lambda name, y, n_outputs, dtype: (y, False))

    @dataclass(frozen=True)
    class Overrides(Loss):
        name = "overrides"

        def prepare_targets(self, y, n_outputs, dtype, name="y"):
            return y, False

    for loss in (Newer(), Overrides()):
        with pytest.raises(NotImplementedError, match=f"loss {loss.name} has targets that fastnn.cuda does not know"):
            targets.prepare(loss, np.ones(3), 1, "float32")


# Arrays of other libraries


class Tensor:
    """An array of another library that lies on the GPU."""

    def __init__(self, array, **more):
        self.array = array
        self.__cuda_array_interface__ = array.__array_interface__ | more


class Graded:
    """As PyTorch's tensors that need a gradient."""

    requires_grad = True

    @property
    def __cuda_array_interface__(self):
        raise RuntimeError("Can't get __cuda_array_interface__ on Variable that requires grad")


class Packed:
    """DLPack and nothing else."""

    def __init__(self, array, kind):
        self.array, self.kind = array, kind

    def __dlpack_device__(self):
        return (self.kind, 0)


@pytest.fixture
def imports(monkeypatch):
    """What Numba and cuda.core do on a GPU, over the host's memory; the streams that were asked for."""
    asked = []

    def as_cuda_array(obj, sync):
        assert not sync
        interface = obj.__cuda_array_interface__
        if interface.get("mask") is not None:
            raise NotImplementedError("Masked arrays are not supported")
        holder = SimpleNamespace(__array_interface__=interface, owner=obj)
        return device(np.asarray(holder))

    def dlpack_view(obj, stream):
        asked.append(stream)
        if obj.array is None:
            raise BufferError("cannot be exported")
        x = obj.array
        steps = None if x.flags.c_contiguous else tuple(s // x.itemsize for s in x.strides)
        return SimpleNamespace(ptr=x.ctypes.data, shape=x.shape, strides=steps, dtype=x.dtype, owner=x)

    simulated = SimpleNamespace(as_cuda_array=as_cuda_array, gpus=[0])
    monkeypatch.setattr(arrays, "cuda", simulated)
    monkeypatch.setattr(arrays, "dlpack_view", dlpack_view)
    return SimpleNamespace(cuda=simulated, streams=asked)


def test_what_is_on_a_device():
    x = np.ones(3)
    for each in (device(x), device(x)[1:], Tensor(x), Graded(), Packed(x, 2), Packed(x, 13)):
        assert arrays.on_device(each)
    for each in (x, [1, 2], 3.0, None, "abc", np.float32(1), Packed(x, 1), Packed(x, 10), np.ma.array(x), THING):
        assert not arrays.on_device(each)


@pytest.mark.parametrize("view", VIEWS)
def test_memory_of_other_libraries_is_shared(imports, view):
    x = VIEWS[view](data("float32"))
    for each in (Tensor(x), Packed(x, 2)):
        found = arrays.as_device("X", each)
        assert same_memory(found, device(x))
        np.testing.assert_array_equal(found.copy_to_host(), x)
        assert_same(arrays.matrix("X", each, "float32").copy_to_host(), np.ascontiguousarray(x))
    assert imports.streams == [1, 1]  # the default stream, as DLPack writes it


def test_dlpack_is_told_the_stream(imports):
    with streams.use_stream(77):
        arrays.as_device("X", Packed(np.ones(3), 2))
    assert imports.streams == [77]


def test_tensors_that_cannot_be_taken(imports):
    x = np.ones((2, 2), "float32")
    for bad, error, message in (
        (Graded(), TypeError, r"X must not need a gradient.*use X\.detach\(\)"),
        (Tensor(x, mask=x), ValueError, "X must hold no masked values"),
        (Packed(None, 2), TypeError, "X cannot be read as a device array: cannot be exported"),
        (Tensor(x.astype(complex)), TypeError, "X must hold real numbers, got a device array of dtype complex128"),
    ):
        with pytest.raises(error, match=message):
            arrays.matrix("X", bad, "float32")


def test_another_gpu(imports, monkeypatch):
    imports.cuda.gpus = [0, 1]
    x = device(np.ones((2, 2), "float32"))
    monkeypatch.setattr(arrays, "gpu_of", lambda array: 0)
    assert arrays.matrix("X", x, "float32") is x
    monkeypatch.setattr(arrays, "gpu_of", lambda array: 1)
    with pytest.raises(ValueError, match="X must lie on the current GPU, 0, got an array on GPU 1"):
        arrays.matrix("X", x, "float32")


def test_results_are_where_the_input_was():
    out = device(np.ones((2, 1)))
    assert arrays.same_kind(out, out) is out
    assert arrays.same_kind(out, Tensor(np.ones(1))) is out
    for like in ([[1.0]], np.ones((2, 3))):
        assert isinstance(arrays.same_kind(out, like), np.ndarray)


# Streams


def test_streams_are_nested_and_left_behind():
    own = cuda.stream()
    assert streams.current() == 0
    with streams.use_stream(own):
        assert streams.current() is own
        with streams.use_stream(5):
            assert streams.current() == 5
        assert streams.current() is own
        with pytest.raises(KeyError), streams.use_stream(6):
            raise KeyError
        assert streams.current() is own
        with streams.use_stream(0):
            assert streams.current() == 0
    assert streams.current() == 0


def test_a_stream_belongs_to_a_thread():
    seen = []
    with streams.use_stream(5):
        thread = threading.Thread(target=lambda: seen.append(streams.current()))
        thread.start()
        thread.join()
    assert seen == [0]


class Protocol:
    def __cuda_stream__(self):
        return (0, 8)


@pytest.mark.parametrize(
    "stream, address",
    [
        (0, 0),
        (7, 7),
        (np.int64(7), 7),
        (Protocol(), 8),
        (SimpleNamespace(cuda_stream=9), 9),
        (SimpleNamespace(ptr=0), 0),
    ],
)
def test_streams_of_other_libraries(stream, address):
    with streams.use_stream(stream):
        assert streams.current() == address


@pytest.mark.parametrize("bad", [None, "7", 7.0, True, [7], THING, SimpleNamespace(ptr="7"), Protocol])
def test_no_streams(bad):
    with pytest.raises(TypeError, match=r"stream must be a CUDA stream.*, got "):
        streams.use_stream(bad)
    with pytest.raises(ValueError, match=r"stream must be a CUDA stream.*, got -1"):
        streams.use_stream(-1)


def test_examples():
    assert doctest.testmod(streams) == (0, 3)


def test_everything_goes_to_the_stream(monkeypatch):
    """Each launch, allocation and copy names it."""
    seen = []

    def recorded(owner, name):
        before = getattr(owner, name)

        def call(*arguments, **named):
            seen.append((name, named["stream"]))
            return before(*arguments, **named)

        monkeypatch.setattr(owner, name, call)

    launch = FakeKernel.__getitem__

    def configured(self, configuration):
        blocks, threads, stream = configuration
        seen.append(("launch", stream))
        return launch(self, (blocks, threads))

    monkeypatch.setattr(FakeKernel, "__getitem__", configured)
    for name in ("to_device", "device_array"):
        recorded(cuda, name)
    recorded(FakeArray, "copy_to_host")
    y = np.array([0, 1, 1])
    rows = np.stack([y, 1 - y], axis=1)
    with streams.use_stream(5):
        out = arrays.matrix("X", device(np.ones((3, 2))), "float32")
        arrays.vector("w", device(np.ones(3)), "float32", 3)
        arrays.matrix("X", np.ones((3, 2)), "float32")
        arrays.same_kind(out, y)
        for loss in ("mse", "hinge", "cross_entropy", "binary_cross_entropy"):
            for given in (device(y), device(rows), rows):
                targets.prepare(fn.losses.get(loss), given, 2 if given.ndim == 2 or loss != "mse" else 1, "float32")
        with pytest.raises(ValueError, match="got inf"):
            arrays.matrix("X", device(np.full((2, 2), np.inf)), "float32")
    assert {name for name, _ in seen} == {"launch", "to_device", "device_array", "copy_to_host"}
    assert {stream for _, stream in seen} == {5}
