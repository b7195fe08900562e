"""`fastnn.cuda` where there is no GPU: in numba-cuda's simulator, and what it says where numba-cuda is missing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


FILES = sorted(path.name for path in HERE.glob("cuda*in_simulator.py"))


@pytest.mark.cuda
@pytest.mark.parametrize("arguments", [*([name] for name in FILES), ["test_bad_input.py", "-k", "cuda"]], ids=" ".join)
def test_in_the_simulator(arguments):
    """In processes of their own: the simulator takes the place of ``numba.cuda`` when that is first imported."""
    pytest.importorskip("numba_cuda")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "quick_simulator", *arguments],
        cwd=HERE, env=os.environ | {"NUMBA_ENABLE_CUDASIM": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr
    assert "skipped" not in done.stdout


def import_error(folder, code):
    """The message of the ImportError that ``from fastnn import cuda`` gives after some preparation."""
    script = f"""
import sys
{code}
import fastnn
try:
    from fastnn import cuda
except ImportError as error:
    print(error)
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_without_numba_cuda_the_error_names_the_extra(tmp_path):
    message = import_error(tmp_path, "sys.modules['numba_cuda'] = None")
    assert "needs numba-cuda: install fastnn-numba[cuda]" in message


def test_numba_s_own_deprecated_target_is_refused(tmp_path):
    """As where numba-cuda lies in a folder whose ``.pth`` files Python does not read."""
    (tmp_path / "numba_cuda").mkdir()
    (tmp_path / "numba_cuda" / "__init__.py").touch()
    disarmed = "sys.meta_path = [f for f in sys.meta_path if 'numba_cuda' not in type(f).__module__]"
    message = import_error(tmp_path, disarmed)
    assert "needs numba-cuda: install fastnn-numba[cuda]" in message
    assert "takes its place" in message
