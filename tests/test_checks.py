"""The gate for user data: what passes, what is refused, and what the message says."""

import numpy as np
import pytest
from scipy import sparse

from fastnn import _checks

GOOD = np.arange(6.0, dtype=np.float32).reshape(3, 2)


def test_right_array_is_not_copied():
    assert _checks.matrix("X", GOOD, np.float32) is GOOD
    frozen = GOOD.copy()
    frozen.flags.writeable = False
    assert _checks.matrix("X", frozen, np.float32) is frozen
    row = np.ones(3)
    assert _checks.vector("w", row, np.float64, length=3) is row


@pytest.mark.parametrize(
    "value",
    [
        GOOD.tolist(),
        tuple(map(tuple, GOOD.tolist())),
        GOOD.astype(np.int8),
        GOOD.astype(np.uint64),
        GOOD.astype(np.float16),
        GOOD.astype(">f8"),
        GOOD.astype(">f4"),
        np.asfortranarray(GOOD),
        np.repeat(GOOD, 2, axis=0)[::2],
        GOOD[::-1][::-1],
        GOOD.astype(object),
        np.ma.array(GOOD),
        np.frombuffer(b"\0" + GOOD.tobytes(), dtype=np.uint8)[1:].view(np.float32).reshape(3, 2),  # not aligned
    ],
    ids=lambda v: f"{type(v).__name__}-{getattr(v, 'dtype', '')}",
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_matrix_takes_all_layouts(value, dtype):
    out = _checks.matrix("X", value, dtype)
    assert out.dtype == dtype
    assert out.dtype.isnative
    assert out.flags.c_contiguous
    assert out.flags.aligned
    np.testing.assert_array_equal(out, GOOD)


def test_matrix_takes_bools_and_frames():
    np.testing.assert_array_equal(_checks.matrix("X", [[True, False]], np.float32), [[1, 0]])
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": [1, 2], "b": [True, False], "c": [0.5, 1.5]})
    np.testing.assert_array_equal(_checks.matrix("X", frame, np.float64), [[1, 1, 0.5], [2, 0, 1.5]])
    np.testing.assert_array_equal(_checks.vector("w", frame["c"], np.float64), [0.5, 1.5])


@pytest.mark.parametrize(
    "value, error, message",
    [
        ([1, 2], ValueError, r"X must have 2 dimensions.*\(2,\).*reshape\(-1, 1\).*reshape\(1, -1\)"),
        (3.0, ValueError, "X must have 2 dimensions"),
        (np.zeros((2, 2, 2)), ValueError, r"\(2, 2, 2\)"),
        ([[1, 2], [3]], ValueError, "different lengths"),
        (np.zeros((0, 3)), ValueError, "empty"),
        (np.zeros((3, 0)), ValueError, "empty"),
        ([["a", "b"]], TypeError, "texts.*encode"),
        ([[1.0, "b"]], TypeError, "encode"),
        (np.array([[1, "b"]], dtype=object), TypeError, r"'b'.*\[0, 1\].*encode"),
        ([[1 + 2j]], TypeError, "complex"),
        (np.array([["2020-01-01"]], dtype="M8[D]"), TypeError, "datetime64"),
        (np.zeros((1, 1), dtype=[("a", float)]), TypeError, "X must hold real numbers"),
        ("abc", TypeError, "'abc'"),
        (None, TypeError, "None"),
        ({1: 2}, TypeError, "dict"),
        ([[1, None]], ValueError, r"nan at position \[0, 1\]"),
        ([[1, 2], [np.inf, 3]], ValueError, r"inf at position \[1, 0\]"),
        ([[np.nan, 3]], ValueError, r"nan at position \[0, 0\]"),
        (np.array([[1.0, 1e300]]), ValueError, r"1e\+300 at position \[0, 1\], too large for float32"),
        (np.array([[-1e300, 1e300]]), ValueError, r"-1e\+300 at position \[0, 0\], too large for float32"),
        (np.array([[10**400]], dtype=object), ValueError, "inf"),
        (np.ma.array(GOOD, mask=GOOD > 3), ValueError, "masked"),
    ],
    ids=str,
)
def test_matrix_refuses(value, error, message):
    with pytest.raises(error, match=message):
        _checks.matrix("X", value, np.float32)


def test_matrix_other_refusals():
    with pytest.raises(ValueError, match=r"X must have 3 columns, got shape \(3, 2\)"):
        _checks.matrix("X", GOOD, np.float32, n_columns=3)
    with pytest.raises(TypeError, match="toarray"):
        _checks.matrix("X", sparse.csr_matrix(GOOD), np.float32)
    assert np.isnan(_checks.matrix("X", [[np.nan]], np.float32, finite=False))


def test_large_finite_numbers_pass():
    """Their sum overflows; each is finite."""
    big = np.full((4, 4), 3e38, dtype=np.float32)
    assert _checks.matrix("X", big, np.float32) is big
    assert _checks.matrix("X", big.astype(np.float64), np.float32).max() == big.max()


@pytest.mark.parametrize(
    "value, length, message",
    [([[1.0]], None, "1 dimension"), ([1.0], 2, "length 2, got 1"), ([], None, "empty"), ([np.nan], None, "nan")],
)
def test_vector_refuses(value, length, message):
    with pytest.raises(ValueError, match=message):
        _checks.vector("w", value, np.float64, length=length)


@pytest.mark.parametrize("value", [1, 1.0, np.float32(1), np.int8(1), np.array(1.0)])
def test_number_passes(value):
    out = _checks.number("rate", value, low=0, high=1)
    assert type(out) is float
    assert out == 1.0


def test_none_passes_where_asked():
    assert _checks.number("rate", None, none=True) is None
    assert _checks.integer("units", None, none=True) is None


@pytest.mark.parametrize(
    "value, error, message",
    [
        (True, TypeError, "rate must be a number > 0 and <= 1, got True"),
        (np.True_, TypeError, "True"),
        ("0.5", TypeError, "'0.5'"),
        (None, TypeError, "None"),
        (1j, TypeError, "1j"),
        ([1.0], TypeError, r"\[1.0\]"),
        (np.nan, ValueError, "finite, got nan"),
        (np.inf, ValueError, "finite, got inf"),
        (10**400, ValueError, "finite"),
        (0, ValueError, "got 0"),
        (1.5, ValueError, "got 1.5"),
    ],
    ids=str,
)
def test_number_refuses(value, error, message):
    with pytest.raises(error, match=message):
        _checks.number("rate", value, low=0, high=1, low_open=True)


def test_number_open_top():
    with pytest.raises(ValueError, match="rate must be a number >= 0 and < 1, got 1"):
        _checks.number("rate", 1, low=0, high=1, high_open=True)


@pytest.mark.parametrize("value", [3, np.int64(3), np.array(3)])
def test_integer_passes(value):
    out = _checks.integer("units", value, low=1)
    assert type(out) is int
    assert out == 3


@pytest.mark.parametrize(
    "value, error",
    [(3.0, TypeError), (True, TypeError), ("3", TypeError), (0, ValueError), (9, ValueError)],
)
def test_integer_refuses(value, error):
    with pytest.raises(error, match="units must be an integer >= 1 and <= 5"):
        _checks.integer("units", value, low=1, high=5)


def test_flag():
    assert _checks.flag("bias", np.True_) is True
    for value in (0, 1, "yes", None):
        with pytest.raises(TypeError, match="bias must be True or False"):
            _checks.flag("bias", value)


def test_choice_names_the_nearest():
    assert _checks.choice("loss", "mse", ["mse", "mae"]) == "mse"
    with pytest.raises(
        ValueError, match=r"one of cross_entropy, mse, got 'CrossEntropy': did you mean 'cross_entropy'\?"
    ):
        _checks.choice("loss", "CrossEntropy", ["mse", "cross_entropy"])
    with pytest.raises(ValueError, match=r"got 'Swish': did you mean 'silu'\?"):
        _checks.choice("activation", "Swish", ["mish", "silu"])
    with pytest.raises(ValueError, match=r"got 'gpu': did you mean 'cpu'\?"):
        _checks.choice("device", "gpu", ["cpu"])
    with pytest.raises(ValueError, match=r"got 'zzz'$"):
        _checks.choice("loss", "zzz", ["mse", "cross_entropy"])
    with pytest.raises(TypeError, match="loss must be one of"):
        _checks.choice("loss", 3, ["mse"])
