"""Initializers: their distributions, what they accept, and how networks choose them."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest

from fastnn import activations
from fastnn import initializers as init

SHAPE = (300, 200)
NAMES = {
    "constant": 0.0,
    "glorot_normal": np.sqrt(2 / 500),
    "glorot_uniform": np.sqrt(2 / 500),
    "he_normal": np.sqrt(2 / 300),
    "he_uniform": np.sqrt(2 / 300),
    "identity": None,
    "lecun_normal": np.sqrt(1 / 300),
    "lecun_uniform": np.sqrt(1 / 300),
    "normal": 0.05,
    "ones": 0.0,
    "orthogonal": np.sqrt(1 / 300),
    "truncated_normal": 0.05 * 0.8796256610342398,
    "uniform": 0.05 / np.sqrt(3),
    "zeros": 0.0,
}


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("name", NAMES)
def test_every_one(name):
    one = init.get(name)
    value = one(SHAPE, rng(), "float64")
    assert value.shape == SHAPE
    assert value.dtype == np.float64
    assert value.flags.c_contiguous
    assert value.flags.writeable
    np.testing.assert_array_equal(one(SHAPE, rng(), "float32"), value.astype("float32"))
    if NAMES[name] is not None:
        assert value.std() == pytest.approx(NAMES[name], rel=0.01)
    again = init.from_config(json.loads(json.dumps(one.get_config())))
    assert again == one == pickle.loads(pickle.dumps(one)) == eval(repr(one), vars(init))
    assert hash(again) == hash(one)
    assert init.get(one) is one


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"identity", "orthogonal"}))
def test_vectors_and_small_shapes(name):
    assert init.get(name)((5,), rng()).shape == (5,)
    assert init.get(name)((1, 1), rng()).shape == (1, 1)


@pytest.mark.oracle
@pytest.mark.parametrize("kind", ["uniform", "normal"])
@pytest.mark.parametrize(("ours", "theirs"), [("glorot", "xavier"), ("he", "kaiming")])
def test_spread_is_that_of_pytorch(oracle, ours, theirs, kind):
    torch = oracle("torch")
    options = {"nonlinearity": "relu"} if theirs == "kaiming" else {}
    weight = torch.empty(SHAPE[1], SHAPE[0])  # PyTorch's are (n_out, n_in)
    torch.manual_seed(0)
    getattr(torch.nn.init, f"{theirs}_{kind}_")(weight, **options)
    mine = init.get(f"{ours}_{kind}")(SHAPE, rng())
    assert mine.std() == pytest.approx(weight.numpy().std(), rel=0.02)
    if kind == "uniform":
        assert np.abs(mine).max() == pytest.approx(np.abs(weight.numpy()).max(), rel=1e-3)


def test_parameters():
    assert (init.Constant(2.5)((3,), rng()) == 2.5).all()
    assert init.Normal(mean=1.0, std=0.0)((3,), rng()).tolist() == [1.0, 1.0, 1.0]
    uniform = init.Uniform(2.0, 3.0)(SHAPE, rng())
    assert uniform.min() >= 2.0
    assert uniform.max() <= 3.0
    cut = init.TruncatedNormal(mean=1.0, std=0.5)(SHAPE, rng())
    assert np.abs(cut - 1.0).max() <= 1.0 + 1e-6
    assert cut.mean() == pytest.approx(1.0, abs=0.01)
    np.testing.assert_allclose(init.HeNormal(2.0)(SHAPE, rng()), 2.0 * init.HeNormal()(SHAPE, rng()), rtol=1e-6)
    assert init.Identity(3.0)((2, 3), rng()).tolist() == [[3.0, 0.0, 0.0], [0.0, 3.0, 0.0]]


@pytest.mark.parametrize("shape", [(4, 4), (7, 3), (3, 7), (1, 5)])
def test_orthogonal(shape):
    matrix = init.Orthogonal(gain=2.0)(shape, rng(), "float64")
    small = matrix.T @ matrix if shape[0] >= shape[1] else matrix @ matrix.T
    np.testing.assert_allclose(small, 4.0 * np.eye(min(shape)), atol=1e-12)


def test_orthogonal_is_uniform():
    """Both signs of every corner are as likely; a plain QR factor has none of one."""
    corners = [init.Orthogonal()((3, 3), rng(seed))[0, 0] > 0 for seed in range(200)]
    assert 70 < sum(corners) < 130


def test_array():
    given = [[1, 2], [3, 4]]
    one = init.get(given)
    value = one((2, 2), rng(), "float32")
    assert value.dtype == np.float32
    assert value.tolist() == given
    value[:] = 0.0
    assert one((2, 2), rng()).tolist() == given
    array = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    kept = init.get(array)
    array[:] = 0.0
    assert kept((2, 3), rng(), "float64").tolist() == [[0, 1, 2], [3, 4, 5]]
    assert kept((2, 3), rng(), "float64").flags.c_contiguous
    again = init.from_config(json.loads(json.dumps(kept.get_config())))
    assert again == kept
    assert again != one
    assert hash(again) == hash(kept)
    with pytest.raises(ValueError, match=r"shape \(3, 2\), got \(2, 3\)"):
        kept((3, 2), rng())


def test_function():
    def small(shape, rng, dtype):
        return 0.01 * rng.standard_normal(shape)

    one = init.get(small)
    value = one((3, 2), rng(), "float32")
    assert value.dtype == np.float32
    assert value.shape == (3, 2)
    with pytest.raises(ValueError, match=r"must return shape \(3, 2\), got \(1,\)"):
        init.get(lambda shape, rng, dtype: np.zeros(1))((3, 2), rng())
    with pytest.raises(ValueError, match="initializer"):
        init.get(lambda shape, rng, dtype: np.full(shape, np.nan))((3, 2), rng())
    loaded = init.from_config(json.loads(json.dumps(one.get_config())))
    assert loaded.get_config() == one.get_config()
    with pytest.raises(ValueError, match="was a function"):
        loaded((3, 2), rng())


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        ("relu", init.HeUniform()),
        ("leaky_relu", init.HeUniform()),
        ("gelu", init.HeUniform()),
        ("selu", init.LecunNormal()),
        ("tanh", init.GlorotUniform()),
        ("identity", init.GlorotUniform()),
        ("softmax", init.GlorotUniform()),
    ],
)
def test_auto(activation, expected):
    assert init.auto(activation) == expected


def test_auto_knows_the_activations():
    for name in init._RELU_FAMILY | {"selu"}:
        assert activations.get(name).name == name


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: init.get("he_norm"), ValueError, "did you mean 'he_normal'"),
        (lambda: init.get("array"), ValueError, "initializer"),
        (lambda: init.get(None), TypeError, "initializer"),
        (lambda: init.get(0.5), TypeError, "initializer"),
        (lambda: init.get(init.Normal), TypeError, "class Normal"),
        (lambda: init.get([[1.0, np.nan]]), ValueError, "initial values"),
        (lambda: init.get(["a", "b"]), (TypeError, ValueError), "initial values"),
        (lambda: init.Normal(std=-1.0), ValueError, "std"),
        (lambda: init.Normal(mean="0"), TypeError, "mean"),
        (lambda: init.HeNormal(gain=True), TypeError, "gain"),
        (lambda: init.Uniform(1.0, 0.0), ValueError, "low must be <= high"),
        (lambda: init.Orthogonal()((3,), rng()), ValueError, "orthogonal"),
        (lambda: init.Identity()((3,), rng()), ValueError, "identity"),
        (lambda: init.from_config({"name": "norml"}), ValueError, "did you mean 'normal'"),
        (lambda: init.Initializer()((3,), rng()), NotImplementedError, "draw"),
    ],
)
def test_errors(make, error, text):
    with pytest.raises(error, match=text):
        make()
