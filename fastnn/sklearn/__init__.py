"""scikit-learn's estimators over fastnn: multi-layer perceptrons and single neurons; needs the extra ``sklearn``.

Parameters, defaults, attributes, methods and errors of the first are those of `sklearn.neural_network`. They follow its
trajectories to rounding: with the same ``random_state``, first weights and shuffles are the same too. What they take
beyond it comes after scikit-learn's parameters, keyword-only, with defaults that change nothing.

>>> from fastnn.sklearn import MLPClassifier
>>> X, y = [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], ["no", "yes", "yes", "no"]
>>> xor = MLPClassifier((8,), "tanh", solver="lbfgs", random_state=1).fit(X, y)
>>> xor.predict(X).tolist()
['no', 'yes', 'yes', 'no']
"""

from __future__ import annotations

try:
    import sklearn  # noqa: F401
except ImportError as error:
    raise ImportError("fastnn.sklearn needs scikit-learn: pip install 'fastnn-numba[sklearn]'") from error

from fastnn.sklearn._classifier import MLPClassifier
from fastnn.sklearn._neurons import LogisticNeuron, Perceptron
from fastnn.sklearn._regressor import MLPRegressor

__all__ = ["LogisticNeuron", "MLPClassifier", "MLPRegressor", "Perceptron"]
