"""The import arrows of docs/architecture.md are those of the code, and they go down only."""

import ast
import subprocess
import sys
from pathlib import Path

import fastnn

PACKAGE = Path(fastnn.__file__).parent
DOCUMENT = Path(__file__).parent.parent / "docs" / "architecture.md"
LAZY = {
    ("network", "training"), ("network", "io"), ("io", "network"), ("training", "plots"), ("cuda", "network"),
    ("_model", "cuda"), ("_data", "cuda"), ("population", "cuda"),
}  # fmt: skip
MAY_IMPORT_NUMBA = {
    "_jit", "_parts", "_loops", "_math", "activations", "losses", "optimizers", "cpu", "cuda", "jit", "_cli",
}  # fmt: skip
MOST_LINES = 450


def room_of(path):
    """The first part of a module's place in the package: a file's or a folder's name."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(node, room):
    """Rooms and outside packages that an import statement names."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    else:
        assert node.level == 0, f"{room}: imports are absolute"
        inside = [f"fastnn.{alias.name}" for alias in node.names]
        names = inside if node.module == "fastnn" else [node.module]
    return {name.split(".")[1] if name.startswith("fastnn.") else name.split(".")[0] for name in names}


def only_for_types(node):
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def edges():
    """(top-level imports, imports inside functions), as sets of (room, imported)."""
    top, lazy = set(), set()
    for path in PACKAGE.rglob("*.py"):
        room = room_of(path)
        tree = ast.parse(path.read_text())
        skipped = {id(n) for block in tree.body if only_for_types(block) for n in ast.walk(block)}
        direct = {id(n) for n in tree.body}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom) and id(node) not in skipped:
                found = {(room, name) for name in imports(node, room) if name not in (room, "__future__")}
                (top if id(node) in direct else lazy).update(found)
    return top, lazy


ROOMS = {room_of(path) for path in PACKAGE.rglob("*.py")}


def documented():
    block = DOCUMENT.read_text().split("```arrows\n")[1].split("```")[0]
    lines = [line.split(" -> ") for line in block.strip().splitlines()]
    return {room: set(targets.split(", ")) for room, targets in lines}


def actual():
    top, _ = edges()
    arrows = {}
    for room, name in top:
        if name in ROOMS and room not in ("__init__", "__main__", "_cli"):
            arrows.setdefault(room, set()).add(name)
    return arrows


def test_the_document_shows_the_arrows_of_the_code():
    assert documented() == actual()


def test_arrows_go_down_only():
    remaining = actual()
    leaves = ROOMS - set(remaining)
    while remaining:
        ready = {room for room, targets in remaining.items() if targets <= leaves}
        assert ready, f"a circle among {sorted(remaining)}"
        leaves |= ready
        remaining = {room: targets for room, targets in remaining.items() if room not in ready}


def test_lazy_imports_that_reach_up_are_the_known_ones():
    _, lazy = edges()
    inside = {(room, name) for room, name in lazy if name in ROOMS and room not in ("__init__", "__main__", "_cli")}
    assert inside <= LAZY


def test_only_the_compiled_rooms_import_numba():
    top, lazy = edges()
    assert {room for room, name in top | lazy if name in ("numba", "llvmlite")} <= MAY_IMPORT_NUMBA


def test_one_file_imports_the_gpu_s_target():
    """So that another target takes one edit."""
    found = {str(p.relative_to(PACKAGE)) for p in PACKAGE.rglob("*.py") if imports_target(ast.parse(p.read_text()))}
    assert found == {"cuda/_jit.py"}


def imports_target(tree):
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return any(name == "numba.cuda" or name.startswith(("numba.cuda.", "cuda.")) for name in names)


def test_the_engines_do_not_know_each_other():
    """Nor does anything import the GPU's when the package is imported: it is an extra."""
    top, lazy = edges()
    assert not {("cpu", "cuda"), ("cuda", "cpu")} & (top | lazy)
    assert not {room for room, name in top if name == "cuda" and room != "cuda"}


def test_files_read_in_one_go():
    lengths = {str(p.relative_to(PACKAGE)): len(p.read_text().splitlines()) for p in PACKAGE.rglob("*.py")}
    assert not {name: n for name, n in lengths.items() if n > MOST_LINES}


def test_rooms_that_are_imported_on_demand():
    code = """
import sys
import fastnn as fn

assert not {"fastnn.jit", "fastnn.neurons", "matplotlib", "sklearn"} & set(sys.modules)
fn.jit.predict, fn.neurons.Perceptron, fn.gates, fn.data.load_digits
try:
    fn.nothing
except AttributeError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "module 'fastnn' has no attribute 'nothing'"
