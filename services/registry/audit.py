"""
`python -m services.registry.audit`: the months of the audit of the registry's database, and taking old ones out.
"""

from __future__ import annotations

import sys

from services.ledger.archive import main

if __name__ == "__main__":
    sys.exit(main())
