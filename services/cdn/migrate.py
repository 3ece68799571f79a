"""
`python -m services.cdn.migrate`: bring the asset service's database to the newest schema.
"""

from __future__ import annotations

import sys
from pathlib import Path

from services.ledger.migrate import main

FOLDER = Path(__file__).parent / "migrations"

if __name__ == "__main__":
    sys.exit(main(FOLDER))
