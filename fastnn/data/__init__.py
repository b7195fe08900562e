"""Data that ships with the package, so that a first network trains on something real."""

from __future__ import annotations

from importlib import resources

import numpy as np
from numpy.typing import NDArray


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
