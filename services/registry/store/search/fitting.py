"""
Pages whose items come with more than their own rows: as many as fit into one answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from services.ledger.store.paging import MOST_OCTETS
from services.ledger.store.servers import Row

#: About how many bytes the message of an alias has at most.
ALIAS_OCTETS = 768


def fitting(found: list[Row], own: Sequence[int], more: Sequence[int]) -> list[Row]:
    """
    The first rows of a page that fit into one answer, at least one; the others are for the next page.

    Args:
        own, more: about how many bytes each row has, and what comes with it.
    """
    sums = list(accumulate(each + other for each, other in zip(own, more, strict=True)))
    kept = sum(total <= MOST_OCTETS for total in sums)
    return found if kept == len(sums) else found[: max(kept, 1)]
