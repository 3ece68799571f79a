"""
The landing page at `/` with an interactive API reference. The gateway serves all of its files itself.

The reference is Swagger UI, whose files are those of the installed package flask-swagger-ui.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

from gateway.access import Login, Tokens
from services.chassis.access.policy import AccessMode

#: Tells clients where to log in.
LOGIN = "/.well-known/modelyard"
PAGE = Path(__file__).with_name("page")
SWAGGER_UI = Path(str(metadata.distribution("flask-swagger-ui").locate_file("flask_swagger_ui/dist")))

# URLs contain a hash of the content.
_FOREVER = "public, max-age=31536000, immutable"
# The same URL for every release: revalidated on each request.
_ASK = "no-cache"

# Nothing from other hosts, no script inline, in no frame. Swagger UI styles single elements, and its icons are data.
_PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; style-src-attr 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# In the page's source, at the end of conditional lines.
_IF = re.compile(r"<!-- if (\S[^>]*?) -->")
_FILE_POLICY = "default-src 'none'; frame-ancestors 'none'"


@dataclass(frozen=True, slots=True)
class File:
    """
    A file of the landing page.

    Args:
        path: in the URL.
        data: the content.
        media_type: the Content-Type.
        cache: the Cache-Control.
        policy: the Content-Security-Policy.
    """

    path: str
    data: bytes
    media_type: str
    cache: str = _ASK
    policy: str = _FILE_POLICY

    @property
    def digest(self) -> str:
        """
        The hash of the content.
        """
        return hashlib.sha256(self.data).hexdigest()[:32]


def files(tokens: Tokens | None = None) -> list[File]:
    """
    All files of the landing page.

    Args:
        tokens: the accepted tokens, which the page describes; None while access control is off.
    """
    assets = dict(_assets())
    html = _page(tokens)
    for name, file in assets.items():
        html = html.replace(f'"{name}"', f'"{file.path}"')
    return [
        File("/", html.encode(), "text/html; charset=utf-8", policy=_PAGE_POLICY),
        File("/openapi.json", _openapi(), "application/json"),
        *([File(LOGIN, _login(tokens, tokens.login), "application/json")] if tokens and tokens.login else []),
        *assets.values(),
    ]


def write(folder: Path, tokens: Tokens | None = None) -> list[Mapping[str, str]]:
    """
    Write the files and their compressed variants into a folder.

    Args:
        folder: the target.
        tokens: the accepted tokens.

    Returns:
        The values of each file for `gateway/envoy.yaml`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    served: list[Mapping[str, str]] = []
    for file in files(tokens):
        plain, zipped = folder / file.digest, folder / f"{file.digest}.gz"
        plain.write_bytes(file.data)
        zipped.write_bytes(_compressed(file.data))
        served.append(
            {
                "path": file.path,
                "plain": str(plain),
                "zipped": str(zipped),
                "digest": file.digest,
                # Weak, because it is the same for both variants.
                "etag": f'W/"{file.digest}"',
                "type": file.media_type,
                "cache": file.cache,
                "policy": file.policy,
            }
        )
    return served


def _login(tokens: Tokens, login: Login) -> bytes:
    named = {"issuer": login.issuer, "client_id": login.client, "audience": tokens.audience, "scopes": login.scopes}
    return json.dumps({"login": named}).encode()


@cache
def _openapi() -> bytes:
    # Without the line breaks that make it readable in the tree.
    contracts = json.loads((PAGE / "openapi.json").read_text())
    return json.dumps(contracts, ensure_ascii=False, separators=(",", ":")).encode()


# The files are the same for all gateways that a process starts.
@cache
def _compressed(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


def _page(tokens: Tokens | None) -> str:
    reflection = tokens is None or tokens.reflection
    so = {
        "tokens": tokens is not None,
        "reading": tokens is None or tokens.mode is AccessMode.READ_PUBLIC,
        "reflection": reflection,
        "no reflection": not reflection,
    }
    lines = (PAGE / "index.html").read_text().splitlines(keepends=True)
    kept = (line for line in lines if all(so[found] for found in _IF.findall(line)))
    return "".join(_IF.sub("", line) for line in kept)


def _assets() -> Iterator[tuple[str, File]]:
    for name, source in {
        "swagger-ui.css": SWAGGER_UI,
        "swagger-ui-bundle.js": SWAGGER_UI,
        "page.css": PAGE,
        "page.js": PAGE,
    }.items():
        data = (source / name).read_bytes()
        media_type = "text/css; charset=utf-8" if name.endswith(".css") else "text/javascript; charset=utf-8"
        yield name, File(f"/page/{hashlib.sha256(data).hexdigest()[:16]}/{name}", data, media_type, _FOREVER)
