"""
Privacy rules for tests of other rules: every caller may see and sign private assets.
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
        Always.
        """
        return True

    def signs(self) -> bool:
        """
        Always.
        """
        return True

    def check_upload(self, *, private: bool) -> None:
        """
        Accept every upload.
        """
