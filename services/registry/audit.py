"""
`python -m services.registry.audit`: lists and detaches monthly partitions of the registry's audit log.
"""

from __future__ import annotations

import sys

from services.ledger.archive import main

if __name__ == "__main__":
    sys.exit(main())
