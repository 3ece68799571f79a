"""
Write `gateway/page/openapi.json` from the contracts in `protos/`; `--check` writes nothing and fails when it differs.
"""

from __future__ import annotations

import argparse
import json
import tomllib
from pathlib import Path

from gateway.openapi.comments import of_contracts
from gateway.openapi.document import document

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = ROOT / "gateway" / "page" / "openapi.json"


def fresh() -> str:
    """
    The document as the contracts have it now, as JSON.

    Raises:
        SystemExit: protoc found a mistake; it has said which.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return json.dumps(document(of_contracts(), project["version"]), indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    """
    Read the arguments and do what they say.
    """
    parser = argparse.ArgumentParser(prog="python -m gateway.openapi", description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail when the committed document is not fresh")
    found = parser.parse_args()
    text = fresh()
    if not found.check:
        COMMITTED.write_text(text)
    elif not COMMITTED.exists() or COMMITTED.read_text() != text:
        raise SystemExit(f"{COMMITTED.relative_to(ROOT)} differs from protos/ (run `make protos`)")


if __name__ == "__main__":
    main()
