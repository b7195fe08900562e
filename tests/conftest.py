"""Peer libraries as oracles: without them their tests skip visibly; with FASTNN_REQUIRE_ORACLES=1 they fail instead.

So do the tests marked ``cuda``, for the GPU's compiler. Those marked ``gpu`` skip visibly where there is no GPU: the
fixture ``gpu`` looks. Pictures are drawn without a window, and no figure outlives its test.
"""

import os

import matplotlib
import matplotlib.pyplot as plt
import pytest

ORACLES = ("torch", "sklearn")
REQUIRED = os.environ.get("FASTNN_REQUIRE_ORACLES") == "1"


matplotlib.use("agg")


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture
def oracle(request):
    """``oracle("torch")`` imports a peer or skips the test, which must carry ``pytest.mark.oracle``."""
    if request.node.get_closest_marker("oracle") is None:
        pytest.fail("a test that asks for an oracle must carry pytest.mark.oracle")

    def load(name):
        module = pytest.importorskip(name)
        if name == "torch":
            module.set_num_threads(1)  # its threads spin: on a busy machine small tensors take 15 times as long
        return module

    return load


@pytest.fixture(scope="session")
def gpu():
    """Numba's ``cuda``, where there is a GPU; else the test skips, and says why."""
    pytest.importorskip("numba_cuda")
    from numba import cuda

    if cuda.config.ENABLE_CUDASIM:
        pytest.skip("this is the simulator")
    if not cuda.is_available():
        pytest.skip("no GPU: numba.cuda.is_available() is false")
    return cuda


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if not report.skipped or hasattr(report, "wasxfail"):
        return report
    reason = str(call.excinfo.value) if call.excinfo else ""
    marked = any(item.get_closest_marker(name) is not None for name in ("oracle", "cuda"))
    if marked and REQUIRED:
        report.outcome, report.longrepr = "failed", f"required here, but the test was skipped: {reason}"
    elif not (marked or item.get_closest_marker("gpu")) and any(
        f"could not import '{name}" in reason for name in ORACLES
    ):
        report.outcome, report.longrepr = "failed", f"needs pytest.mark.oracle: {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    report = yield
    if report.skipped and REQUIRED:  # a file that skips itself as a whole has no marked tests to look at
        report.outcome, report.longrepr = "failed", f"no file may be skipped as a whole: {report.longrepr[2]}"
    return report
