"""What the documentation says is run: README's Python blocks, the docstrings' examples, README's lists of names."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import fastnn as fn

README = Path(__file__).parents[1] / "README.md"


def modules():
    """Modules of the package that need nothing else, without the command line.

    `test_sklearn` and `cuda_in_simulator` look after their own.
    """
    names = [each.name for each in pkgutil.walk_packages(fn.__path__, "fastnn.")]
    left_out = ("fastnn._cli", "fastnn.cuda", "fastnn.sklearn", "fastnn.__main__")
    return ["fastnn", *(name for name in names if not name.startswith(left_out))]


def blocks(language):
    """(line number, text) of README's fenced blocks."""
    text = README.read_text(encoding="utf-8")
    fences = re.finditer(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(text.count("\n", 0, match.start(1)), match.group(1)) for match in fences]


def test_readme_python_blocks_run_in_their_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = blocks("python")
    assert found
    names = {}
    for line, text in found:
        code = compile("\n" * line + text, str(README), "exec")  # errors show README's own line
        exec(code, names)
    assert names["net"].evaluate(names["X"], names["y"])["accuracy"] > 0.97


def test_readme_has_exactly_two_set_up_commands():
    commands = [text.strip() for _, text in blocks("sh")]
    assert commands == ["pip install . && python -m fastnn demo", "pip install '.[test]' && python -m pytest"]
    text = README.read_text(encoding="utf-8")
    assert [line for line in text.splitlines() if line.startswith("pip ")] == commands


def table_row(title):
    row = re.search(rf"^\| {title} \| (.*) \|$", README.read_text(encoding="utf-8"), re.MULTILINE)
    return re.findall(r"\w+", row.group(1).partition(", or ")[0])


def public_classes(module, base):
    found = {name: each for name, each in vars(module).items() if isinstance(each, type) and not name.startswith("_")}
    return {name for name, each in found.items() if issubclass(each, base) and each is not base}


def test_readme_lists_every_name():
    builtin = [name for name in fn.activations.names() if fn.activations.get(name).definition.builtin]
    assert sorted(table_row("activations")) == sorted(builtin)
    losses = [name for name in fn.losses.names() if not isinstance(fn.losses.get(name), fn.losses.UserLoss)]
    assert sorted(table_row("losses")) == sorted(losses)
    assert set(table_row("layers")) == public_classes(fn.layers, fn.layers.Layer)
    assert set(table_row("optimizers")) == public_classes(fn.optimizers, fn.optimizers.Optimizer)
    assert set(table_row("schedules")) == public_classes(fn.schedules, fn.schedules.Schedule)
    assert set(table_row("metrics")) == set(fn.metrics.METRICS)
    assert all(hasattr(fn.callbacks, name) for name in table_row("callbacks"))


@pytest.mark.parametrize("name", modules())
def test_examples_in_docstrings(name):
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert not failed
