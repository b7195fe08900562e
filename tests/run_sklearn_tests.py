"""scikit-learn's own tests of its multi-layer perceptrons, run against fastnn's: ``python tests/run_sklearn_tests.py``.

The tests are those installed with scikit-learn; the two classes are put in the place of scikit-learn's before that file
is imported. Exits 1 if a case fails that is not in `EXCUSED`, or if one passes that is. More arguments go to pytest.
"""

import sys
import tempfile
from pathlib import Path

import pytest
import sklearn.neural_network

from fastnn.sklearn import MLPClassifier, MLPRegressor

MODULE = "sklearn.neural_network.tests.test_mlp"

# Name of a test: (the error it has to end with, why it cannot pass).
EXCUSED = {
    "test_gradient": (
        AttributeError,
        "calls the private _loss_grad_lbfgs(theta, X, y, sample_weight, activations, deltas, ...) with work arrays of "
        "scikit-learn's own backward pass; gradients are compared with differences in tests/test_engine.py",
    ),
}


class Substitution:
    """A plugin of pytest: marks what is excused, and looks whether the tests have fastnn's classes."""

    def __init__(self):
        self.n_passed = 0

    def pytest_collection_modifyitems(self, items):
        unused = set(EXCUSED) - {item.originalname for item in items}
        if unused:
            raise pytest.UsageError(f"excused, but not among scikit-learn's tests: {', '.join(sorted(unused))}")
        for item in items:
            if (item.module.MLPClassifier, item.module.MLPRegressor) != (MLPClassifier, MLPRegressor):
                raise pytest.UsageError(f"{item.nodeid} does not test fastnn's classes")
            if item.originalname in EXCUSED:
                error, reason = EXCUSED[item.originalname]
                item.add_marker(pytest.mark.xfail(raises=error, reason=reason, strict=True))

    def pytest_runtest_logreport(self, report):
        self.n_passed += report.when == "call" and report.passed


def main(arguments):
    sklearn.neural_network.MLPClassifier, sklearn.neural_network.MLPRegressor = MLPClassifier, MLPRegressor
    folder = str(Path(sklearn.__file__).parent)
    plugin = Substitution()
    with tempfile.TemporaryDirectory() as elsewhere:
        settings = Path(elsewhere) / "pytest.ini"  # not this project's, whose filters are stricter
        settings.write_text("[pytest]\n")
        status = pytest.main(
            ["--pyargs", MODULE, "-c", str(settings), "--rootdir", folder, "-p", "no:cacheprovider", *arguments],
            plugins=[plugin],
        )
    print(f"{plugin.n_passed} of scikit-learn's tests passed with fastnn's classes, {len(EXCUSED)} excused")
    return int(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
