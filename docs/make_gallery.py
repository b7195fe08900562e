"""Draw the pictures of docs/gallery and write its README.md: ``python docs/make_gallery.py [FOLDER]``."""

import argparse
import importlib.util
import inspect
import io
import textwrap
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
from PIL import Image

GALLERY = Path(__file__).resolve().parent / "gallery"
DPI = 110
HEADER = """\
# Gallery

What [`fastnn.plots`](../../fastnn/plots) draws; it needs the extra `plot`. Each picture is made by the lines below it,
after these:

```python
{imports}
```

`python docs/make_gallery.py` draws the pictures from [pictures.py](pictures.py) and writes this page.
"""
SECTION = """
## {title}

{text}

![{title}]({name}.png)

```python
{code}
```
"""


def load_pictures():
    """The module of the functions that draw."""
    spec = importlib.util.spec_from_file_location("pictures", GALLERY / "pictures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def functions(module):
    """The pictures' functions by name, in the order of the file."""
    return {name: each for name, each in vars(module).items() if getattr(each, "__module__", "") == module.__name__}


def page(module):
    """The text of README.md."""
    imports = inspect.getsource(module).partition('"""\n')[2].partition("\n\n\ndef ")[0].strip()
    parts = [HEADER.format(imports=imports)]
    for name, function in functions(module).items():
        title, _, text = inspect.getdoc(function).partition("\n\n")
        code = textwrap.dedent(inspect.getsource(function).rpartition('"""\n')[2]).rstrip()
        parts.append(SECTION.format(title=title, text=text, name=name, code=code))
    return "".join(parts)


def draw(function, path):
    """Write what a function draws as a PNG of at most 256 colours, which takes half the space."""
    with plt.style.context("default"):
        function()
        buffer = io.BytesIO()
        plt.gcf().savefig(buffer, dpi=DPI)
        plt.close("all")
    picture = Image.open(buffer).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    picture.save(path, optimize=True)


def main(arguments=None):
    """Draw everything into a folder."""
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0] + ".")
    parser.add_argument("folder", type=Path, nargs="?", default=GALLERY)
    folder = parser.parse_args(arguments).folder
    matplotlib.use("agg")
    module = load_pictures()
    for name, function in functions(module).items():
        draw(function, folder / f"{name}.png")
    (folder / "README.md").write_text(page(module), encoding="utf-8")


if __name__ == "__main__":
    main()
