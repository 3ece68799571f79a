"""
Tokens that were verified before.
"""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from services.chassis.access import Keys, Verifier, tokens
from services.chassis.access.tokens import LEEWAY
from services.chassis.errors import Unauthenticated
from tests.tokens import AUDIENCE, ISSUER, Issuer


def test_a_token_that_was_good_expires(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A token that is remembered as good is refused once its time has come, as one that is seen for the first time.
    """
    now = time.time()
    monkeypatch.setattr(tokens, "time", SimpleNamespace(time=lambda: now))
    issuer = Issuer(tmp_path / "jwks.json")
    verifier = Verifier(Keys(file=issuer.file), ISSUER, AUDIENCE)
    expires = int(now) + 60
    token = issuer.mint("registry.read", exp=expires)
    assert verifier.verify(token).subject == "ann"
    now = expires + LEEWAY
    assert verifier.verify(token).subject == "ann"
    now = expires + LEEWAY + 1.0
    with pytest.raises(Unauthenticated) as refused:
        verifier.verify(token)
    assert refused.value.reason == "TOKEN_EXPIRED"
