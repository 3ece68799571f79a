"""
Rights for tests of other rules: every caller may see every asset, private ones, too.
"""

from __future__ import annotations

from typing import Final

from services.cdn.service.rights import Rights
from services.cdn.store.viewers import Viewer
from services.chassis.access.policies import Policies

__all__ = ["ALL", "AllowAll"]

#: Sees everything.
ALL: Final = Viewer(private=True)


class AllowAll(Rights):
    """
    As if every caller had a token with all scopes.
    """

    def __init__(self) -> None:
        super().__init__(Policies())

    def viewer(self, *, signing: bool = False) -> Viewer:
        """
        Always the same.
        """
        return ALL

    def check_upload(self, *, private: bool) -> None:
        """
        Accept every upload.
        """
