"""Data on a real GPU: what `cuda_arrays_in_simulator` cannot see: memory shared with others, streams."""

import numpy as np
import pytest

import fastnn as fn
from fastnn import _checks

pytestmark = pytest.mark.gpu

DTYPES = ["bool", "int8", "uint8", "int16", "int32", "int64", "float16", "float32", "float64"]


@pytest.fixture(scope="module")
def arrays(gpu):
    """`fastnn.cuda.arrays`, where there is a GPU."""
    from fastnn.cuda import arrays

    return arrays


@pytest.fixture
def no_copies(arrays, monkeypatch):
    """Bytes of each copy to the host, in a list."""
    from fastnn.cuda import streams

    copied, to_host = [], streams.to_host
    monkeypatch.setattr(streams, "to_host", lambda array: copied.append(array.nbytes) or to_host(array))
    monkeypatch.setattr(streams, "to_device", lambda array: pytest.fail("something is uploaded"))
    return copied


def put_in_numba(x):
    from numba import cuda

    return cuda.to_device(x)


def put_in_torch(x):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch has no CUDA")
    return torch.from_numpy(x).cuda()


def put_in_cupy(x):
    return pytest.importorskip("cupy").asarray(x)


def put_in_jax(x):
    jax = pytest.importorskip("jax")
    try:
        gpu = jax.devices("cuda")[0]
    except RuntimeError as error:
        pytest.skip(f"this JAX has no GPU: {error}")
    return jax.device_put(x, gpu)


class OnlyDLPack:
    """Another library's array that has no other interface."""

    def __init__(self, array):
        self._array = array

    def __dlpack__(self, **named):
        return self._array.__dlpack__(**named)

    def __dlpack_device__(self):
        return self._array.__dlpack_device__()


LIBRARIES = {
    "numba": put_in_numba,
    "torch": put_in_torch,
    "cupy": put_in_cupy,
    "jax": put_in_jax,
    "torch by dlpack": lambda x: OnlyDLPack(put_in_torch(x)),
    "cupy by dlpack": lambda x: OnlyDLPack(put_in_cupy(x)),
}


def address(array):
    """Where an array of any library lies."""
    array = getattr(array, "_array", array)
    return array.__cuda_array_interface__["data"][0]


@pytest.mark.parametrize("library", LIBRARIES)
def test_memory_is_shared(arrays, no_copies, library):
    x = np.random.default_rng(0).standard_normal((1000, 20), np.float32)
    given = LIBRARIES[library](x)
    assert arrays.on_device(given)
    found = arrays.matrix("X", given, "float32", 20)
    assert address(found) == address(given)
    assert sum(no_copies) < 10_000
    np.testing.assert_array_equal(found.copy_to_host(), x)


@pytest.mark.parametrize("engine", ["float32", "float64"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("library", ["numba", "torch", "cupy"])
def test_dtypes_and_strides(arrays, library, dtype, engine):
    x = (np.random.default_rng(0).uniform(0, 100, (301, 33)) - (dtype[0] not in "bu") * 50).astype(dtype)
    given = LIBRARIES[library](x)
    views = [lambda a: a, lambda a: a[::3, 1::2], lambda a: a[5:6], lambda a: a[:, 7:8]]
    if library != "numba":  # which copies where it transposes
        views.append(lambda a: a.T)
    if library == "cupy":
        views.append(lambda a: a[::-1, ::-1])
    for view in views:
        found = arrays.matrix("X", view(given), engine)
        np.testing.assert_array_equal(found.copy_to_host(), _checks.matrix("X", view(x), engine))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_what_is_not_finite_is_found(arrays, dtype):
    for value in (np.nan, np.inf, -np.inf):
        for at in (0, 1, 4093, 70_000, 5 * 65_537 - 1):
            x = np.zeros((65_537, 5), dtype)
            x.flat[at] = value
            with pytest.raises(ValueError) as wanted:
                _checks.matrix("X", x, "float32")
            with pytest.raises(ValueError) as found:
                arrays.matrix("X", put_in_numba(x), "float32")
            assert str(found.value) == str(wanted.value)


def test_a_part_that_is_not_aligned(arrays):
    x = np.ones((1001, 3), np.float32)
    x[700, 1] = np.nan
    with pytest.raises(ValueError, match=r"got nan at position \[699, 1\]"):
        arrays.matrix("X", put_in_numba(x)[1:], "float32")


def test_weights(arrays, no_copies):
    w = np.random.default_rng(0).uniform(0, 1, 100_000).astype("float32")
    given = put_in_numba(w)
    assert address(arrays.vector("w", given, "float32", w.size)) == address(given)
    w[77_777] = -0.5
    with pytest.raises(ValueError, match=r"w must not be negative, got -0\.5 at position 77777"):
        arrays.vector("w", put_in_numba(w), "float64", w.size)
    with pytest.raises(ValueError, match="w must not be zero everywhere"):
        arrays.vector("w", put_in_numba(0 * w), "float32", w.size)


TARGETS = {
    "mse": lambda rng: rng.standard_normal((5000, 10)),
    "poisson": lambda rng: rng.integers(0, 100, (5000, 10)),
    "binary_cross_entropy": lambda rng: rng.integers(0, 10, 5000),
    "hinge": lambda rng: rng.integers(0, 2, (5000, 10)).astype(bool),
    "cross_entropy": lambda rng: rng.dirichlet(np.ones(10), 5000),
}


@pytest.mark.parametrize("loss", TARGETS)
def test_targets(arrays, no_copies, loss):
    from fastnn.cuda import targets

    y, loss = TARGETS[loss](np.random.default_rng(0)), fn.losses.get(loss)
    wanted, labels = loss.prepare_targets(y, 10, "float32")
    found, same = targets.prepare(loss, put_in_numba(y), 10, "float32")
    assert sum(no_copies) < 100_000
    assert same is labels
    np.testing.assert_array_equal(found.copy_to_host(), wanted)


def test_a_tensor_that_needs_a_gradient(arrays):
    tensor = put_in_torch(np.ones((2, 2), np.float32)).requires_grad_()
    assert arrays.on_device(tensor)
    with pytest.raises(TypeError, match=r"use X\.detach\(\)"):
        arrays.matrix("X", tensor, "float32")


def test_bfloat16_is_refused(arrays):
    tensor = put_in_torch(np.ones((2, 2), np.float32)).bfloat16()
    with pytest.raises(TypeError, match=r"^X "):
        arrays.matrix("X", tensor, "float32")


def test_another_gpu(arrays):
    from numba import cuda

    if len(cuda.gpus) < 2:
        pytest.skip("there is one GPU only")
    with cuda.gpus[1]:
        x = cuda.to_device(np.ones((2, 2), np.float32))
    with cuda.gpus[0], pytest.raises(ValueError, match="X must lie on the current GPU, 0, got an array on GPU 1"):
        arrays.matrix("X", x, "float32")


def test_results_go_to_other_libraries_without_a_copy(arrays):
    out = arrays.matrix("X", np.ones((3, 2), np.float32), "float32")
    like = put_in_torch(np.ones(1, np.float32))
    torch = pytest.importorskip("torch")
    tensor = torch.as_tensor(arrays.same_kind(out, like), device="cuda")
    assert tensor.data_ptr() == address(out)
    assert isinstance(arrays.same_kind(out, np.ones(1)), np.ndarray)


def test_work_on_a_stream_is_in_order(arrays):
    """What PyTorch has under way on its stream is complete before we read it on the same one."""
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch has no CUDA")
    from fastnn.cuda import streams

    side = torch.cuda.Stream()
    with torch.cuda.stream(side), streams.use_stream(side):
        x = torch.zeros((4096, 4096), device="cuda")
        for _ in range(50):
            x = x @ x + 1
            x = x.clamp(max=1)
        found = arrays.matrix("X", x.double(), "float32")
        last = streams.to_host(found)
    assert (last == 1).all()


def test_arrays_that_name_their_stream_are_waited_for(arrays):
    cupy = pytest.importorskip("cupy")
    with cupy.cuda.Stream(non_blocking=True):
        x = cupy.zeros((4096, 4096), cupy.float32)
        for _ in range(50):
            x = cupy.minimum(x @ x + 1, 1)
        found = arrays.matrix("X", x, "float32")
    np.testing.assert_array_equal(found.copy_to_host(), np.ones((4096, 4096), np.float32))
