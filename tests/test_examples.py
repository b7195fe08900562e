"""The worked examples run, and come to what they promise."""

import importlib.util
from pathlib import Path

import scipy.integrate

EXAMPLES = Path(__file__).parent.parent / "examples"


def load(name):
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_surrogate():
    example = load("surrogate")
    value, _ = scipy.integrate.quad(lambda t: 2.718281828459045 ** (-1.5 * t) * t**0.5, 0, 1)
    assert abs(example.expensive(1.5, 0.0) - value) < 1e-4  # Simpson's rule beside the root at 0
    result = example.run(n_samples=50_000)
    assert result.rms_error < 2e-3
    assert abs(result.mean_of_surrogate - result.mean_of_integral) < 3e-4
    assert result.speedup > 5
