"""
`python -m services.cdn.audit`: list, archive and drop the monthly audit partitions of the asset service's database.
"""

from __future__ import annotations

import sys

from services.ledger.archive import main

if __name__ == "__main__":
    sys.exit(main())
