"""
`python -m docs.reference FOLDER`: write the generated reference pages into a folder. `make docs` does so for the site.
"""

from __future__ import annotations

import sys
from pathlib import Path

from docs.reference import write


def main() -> None:
    """
    Write the pages.
    """
    write(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
