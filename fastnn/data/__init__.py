"""Data that ships with the package, so that a first network trains on something real, and a classic that is made up."""

from __future__ import annotations

from importlib import resources

import numpy as np
from numpy.typing import NDArray

from fastnn import _checks


def load_digits() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The 1,797 handwritten digits of the UCI test set, in the order of the file.

    Returns
    -------
    X : ndarray of float32, (1797, 64)
        8 x 8 images, row by row; ink from 0 to 16.
    y : ndarray of int64, (1797,)
        The digit, 0 to 9.

    References
    ----------
    Alpaydin and Kaynak (1998), Optical Recognition of Handwritten Digits, UCI Machine Learning Repository,
    https://doi.org/10.24432/C50P49, licensed CC BY 4.0.

    Examples
    --------
    >>> X, y = load_digits()
    >>> X.shape, int(y[0])
    ((1797, 64), 0)
    """
    with resources.files(__name__).joinpath("digits.npz").open("rb") as file, np.load(file) as arrays:
        return arrays["pixels"].astype(np.float32), arrays["labels"].astype(np.int64)


def two_spirals(
    n: int = 97, turns: float = 1.5, noise: float = 0.0, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Two interlocking spirals in the plane, a task that one hidden layer finds hard.

    Parameters
    ----------
    n : int
        Points of each spiral.
    turns : float
        How often each winds around the origin.
    noise : float
        Standard deviation that is added to both coordinates.
    seed : int
        Of the noise.

    Returns
    -------
    X : ndarray of float32, (2 * n, 2)
        Within the unit circle, but for the noise.
    y : ndarray of int64, (2 * n,)
        0 and 1 by turns.

    References
    ----------
    Lang and Witbrock (1988), Learning to tell two spirals apart, Proceedings of the Connectionist Models Summer School.
    They used 97 points and three turns.
    """
    n = _checks.integer("n", n, low=1)
    turns = _checks.number("turns", turns, low=0.0, low_open=True)
    noise = _checks.number("noise", noise, low=0.0)
    rng = np.random.default_rng(_checks.integer("seed", seed, low=0))
    share = np.repeat((np.arange(n) + 1) / n, 2)
    y = np.tile([0, 1], n)
    angle = 2 * np.pi * turns * share + np.pi * y
    X = share[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return (X + noise * rng.standard_normal(X.shape)).astype(np.float32), y.astype(np.int64)
