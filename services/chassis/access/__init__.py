"""
Authentication and authorization: tokens, the keys that verify them, and the service's own token.
"""

from services.chassis.access.identity import ANYBODY, Identity
from services.chassis.access.keys import Keys, KeysError
from services.chassis.access.policy import Access, AccessMode
from services.chassis.access.service_token import ServiceToken
from services.chassis.access.tokens import Verifier

__all__ = ["ANYBODY", "Access", "AccessMode", "Identity", "Keys", "KeysError", "ServiceToken", "Verifier"]
