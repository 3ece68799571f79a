"""
Generate the passwords of the overlay `local` and of `deploy/compose.yaml`: `python -m deploy.secrets FOLDER`.

Existing files are not changed, because databases store their passwords: it is idempotent. Secrets are random and only
readable for their owner. It is for local development; elsewhere secrets come from a secret store
(deploy/components/external-secrets).
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import sys
from collections.abc import Callable
from pathlib import Path

_BYTES = 24
_VALKEY = 'maxmemory 256mb\nmaxmemory-policy volatile-lru\nsave ""\n'


def make(folder: Path) -> list[Path]:
    """
    Generate the missing files in *folder*.

    Returns:
        The files that were made.

    Raises:
        OSError: it cannot be written.
    """
    made: list[Path] = []

    def file(name: str, content: Callable[[], str]) -> str:
        path = folder / name
        if not path.exists():
            _write(path, content())
            made.append(path)
        return path.read_text(encoding="utf-8")

    for role in ("superuser", "owner", "service"):
        file(f"postgresql/{role}", _password)
    password = file("valkey/password", _password)
    file("valkey/valkey.conf", lambda: f"requirepass {password}\n{_VALKEY}")
    access, secret = file("s3/access-key", lambda: secrets.token_hex(10)), file("s3/secret-key", _password)
    file("s3/s3.json", lambda: json.dumps(_identities(access, secret)))
    file("s3/credentials", lambda: f"[default]\naws_access_key_id = {access}\naws_secret_access_key = {secret}\n")
    file("grafana/password", _password)
    return made


def main() -> int:
    """
    Returns:
        The exit code: 1 if the folder cannot be written.
    """
    parser = argparse.ArgumentParser(prog="python -m deploy.secrets", description=__doc__.splitlines()[1])
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="such as deploy/overlays/local/secrets")
    folder = parser.parse_args().folder
    try:
        made = make(folder)
    except OSError as error:
        sys.stderr.write(f"{folder}: {error.strerror or error}\n")
        return 1
    sys.stdout.write(f"{folder}: {len(made)} new files\n")
    return 0


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as output:
        output.write(text)
    # All of it or nothing: what is there is never made again.
    new.replace(path)


def _password() -> str:
    return secrets.token_hex(_BYTES)


def _identities(access: str, secret: str) -> dict[str, object]:
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    keys = {"accessKey": access, "secretKey": secret}
    return {"identities": [{"name": "modelyard", "credentials": [keys], "actions": actions}]}


if __name__ == "__main__":
    sys.exit(main())
