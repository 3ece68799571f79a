"""
Names and digests. Errors of ``parse_…`` name the invalid field of the request.
"""

from __future__ import annotations

import re

from services.cdn.model.static_files import StaticName
from services.chassis.errors import InvalidArgument, Violations

MAX_DIGESTS = 10_000
DIGEST_RULE = "must be 64 lower-case hexadecimal digits"

DIGEST = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"assets/([0-9a-f]{64})")
_UPLOAD = re.compile(r"uploads/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")
#: As the registry has it (services/registry/model/names.py); a test compares them.
VERSION = re.compile(
    r"namespaces/[A-Za-z0-9][A-Za-z0-9_-]{0,63}/models/[A-Za-z0-9][A-Za-z0-9._-]{0,127}/versions/[1-9][0-9]{0,18}"
)


def asset_name(sha256: str) -> str:
    """
    The resource name of the asset with this digest.
    """
    return f"assets/{sha256}"


def parse_name(name: str, field: str = "name") -> str:
    """
    Parse the digest of an asset's name.

    Raises:
        InvalidArgument: *name* is not assets/{sha256}.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise InvalidArgument.of(field, "must be assets/{sha256} with 64 lower-case hexadecimal digits")
    return match[1]


def parse_digests(digests: list[str], field: str = "sha256") -> list[str]:
    """
    Validate and deduplicate digests; their order is kept.

    Raises:
        InvalidArgument: there are none or more than MAX_DIGESTS, or one is malformed (the first ten are named).
    """
    if not 1 <= len(digests) <= MAX_DIGESTS:
        raise InvalidArgument.of(field, f"must hold 1 to {MAX_DIGESTS} digests")
    wrong = Violations()
    for place, digest in enumerate(digests):
        if not DIGEST.fullmatch(digest) and len(wrong) < 10:
            wrong.add(f"{field}[{place}]", DIGEST_RULE)
    wrong.raise_if_any()
    return list(dict.fromkeys(digests))


def parse_names(names: list[str], field: str = "names", *, least: int = 1) -> list[str]:
    """
    Parse and deduplicate the digests of assets' names; their order is kept.

    Raises:
        InvalidArgument: there are too few or too many, or one is malformed (the first ten are named).
    """
    if not least <= len(names) <= MAX_DIGESTS:
        raise InvalidArgument.of(field, f"must hold {least} to {MAX_DIGESTS} names")
    wrong = Violations()
    for place, name in enumerate(names):
        if not _NAME.fullmatch(name) and len(wrong) < 10:
            wrong.add(f"{field}[{place}]", f"must be assets/{{sha256}}; the digest {DIGEST_RULE}")
    wrong.raise_if_any()
    return list(dict.fromkeys(name.removeprefix("assets/") for name in names))


def parse_upload(name: str, field: str = "name") -> str:
    """
    Parse the id of an upload's name.

    Raises:
        InvalidArgument: *name* is not uploads/{upload}.
    """
    match = _UPLOAD.fullmatch(name)
    if match is None:
        raise InvalidArgument.of(field, "must be uploads/{upload}, as returned by StartUpload")
    return match[1]


def check_owner(wrong: Violations, field: str, owner: str) -> None:
    """
    Add a violation unless *owner* is the full name of a version or static/{path}.
    """
    if owner.startswith("static/"):
        try:
            StaticName.parse(owner, field)
        except InvalidArgument as error:
            wrong.extend(error.violations)
    elif not VERSION.fullmatch(owner):
        wrong.add(field, "must be namespaces/{namespace}/models/{model}/versions/{number}, or static/{path}")


def is_prefix(name: str) -> bool:
    """
    Whether *name* can be the name, or a prefix of names, of resources of this service.
    """
    return name.split("/", 1)[0] in {"assets", "static", "namespaces"} and name.isprintable() and len(name) <= 1024
