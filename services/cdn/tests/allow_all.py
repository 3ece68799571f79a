"""
Rules for tests of what is behind the rules: everybody may know of private assets, and give access to them.
"""

from __future__ import annotations

from services.cdn.service.privacy import Privacy

__all__ = ["AllowAll"]


class AllowAll(Privacy):
    """
    As if every caller had a token with all scopes.
    """

    def sees(self) -> bool:
        """
        They do.
        """
        return True

    def signs(self) -> bool:
        """
        They may.
        """
        return True

    def check_upload(self, *, private: bool) -> None:
        """
        Take everything.
        """
