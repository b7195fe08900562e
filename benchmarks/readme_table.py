"""Put a measured table into the documentation: ``python benchmarks/readme_table.py benchmarks/results/NAME.json``.

Prints the table of a file that ``python -m fastnn bench --json NAME.json`` has written. ``--write`` puts it between the
marks ``<!-- bench:begin -->`` and ``<!-- bench:end -->`` of README.md and docs/performance.md, where they have them;
``--check`` exits 1 if one of them says something else.
"""

import argparse
import json
import sys
from pathlib import Path

from fastnn._cli.bench import report

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = (ROOT / "README.md", ROOT / "docs" / "performance.md")
BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"


def table(path):
    """The Markdown of a measurement, with the file it comes from."""
    result = json.loads(Path(path).read_text(encoding="utf-8"))
    return f"{report.markdown(result)}\n\nEvery round of it is in `benchmarks/results/{Path(path).name}`."


def marked(document):
    """(text before, between and behind the marks), None where the document is not there or has none."""
    if not document.exists():
        return None
    text = document.read_text(encoding="utf-8")
    if BEGIN not in text:
        return None
    before, _, rest = text.partition(BEGIN)
    between, end, behind = rest.partition(END)
    if not end:
        raise SystemExit(f"{document.name} has {BEGIN} without {END}")
    return before, between.strip(), behind


def main(arguments=None, documents=DOCUMENTS):
    """Print, write or check the table; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0] + ".")
    parser.add_argument("file", type=Path, help="what bench --json has written")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--write", action="store_true", help="put the table between the marks")
    what.add_argument("--check", action="store_true", help="exit 1 if a table between marks is another one")
    given = parser.parse_args(arguments)
    new = table(given.file)
    if not (given.write or given.check):
        print(new)
        return 0
    found = {document: parts for document in documents if (parts := marked(document)) is not None}
    if not found:
        print(f"no document has {BEGIN}: {', '.join(document.name for document in documents)}", file=sys.stderr)
        return 2
    status = 0
    for document, (before, between, behind) in found.items():
        same = between == new
        if given.write and not same:
            document.write_text(f"{before}{BEGIN}\n\n{new}\n\n{END}{behind}", encoding="utf-8")
        if given.check and not same:
            status = 1
        print(f"{document.name}: {'the same' if same else 'written' if given.write else 'differs'}")
    return status


if __name__ == "__main__":
    sys.exit(main())
