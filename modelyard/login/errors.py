"""
Errors of logins.
"""

from __future__ import annotations


class LoginError(Exception):
    """
    There is no valid token, and none can be had: the message says what to do. It never contains a token.

    Args:
        message: what is wrong, and the fix.
        temporary: whether the same may work later, because the identity provider did not answer.
    """

    def __init__(self, message: str, *, temporary: bool = False) -> None:
        super().__init__(message)
        self.temporary = temporary


class ProviderError(LoginError):
    """
    The identity provider rejected a request.

    Args:
        message: what is wrong.
        code: error code of OAuth, such as invalid_grant; empty if the answer has none.
    """

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code
