"""``python -m fastnn``: see ``fastnn._cli``."""

import sys

from fastnn._cli import main

if __name__ == "__main__":
    sys.exit(main())
