"""
Clients of the Hub, in environments of their own.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tools.environments import python_with

#: The hash-locked sets with clients of the Hub, one for each generation (requirements/).
GENERATIONS: Final = ("hub0", "hub1", "hub2")
_SCRIPT: Final = Path(__file__).with_name("hub_flows.py")


@dataclass(frozen=True, slots=True)
class Ran:
    """
    What a client did.

    Args:
        version: of huggingface_hub.
        flows: by name: "ok", what went wrong, or "-" where the client does not have it.
        notes: by name of a flow: what was measured.
    """

    version: str
    flows: Mapping[str, str]
    notes: Mapping[str, str]

    @property
    def failed(self) -> dict[str, str]:
        """
        The flows that went wrong.
        """
        return {name: said for name, said in self.flows.items() if said not in {"ok", "-"}}


def run(generation: str, setting: Mapping[str, Any], only: Collection[str] = ()) -> Ran:
    """
    Run the flows with a client.

    Args:
        generation: one of `GENERATIONS`.
        setting: what is published (tests/doors/repositories.py).
        only: names of flows; empty for all.

    Raises:
        subprocess.CalledProcessError: the client's environment cannot be made.
        RuntimeError: the script did not end as it should.
    """
    python = python_with(generation)
    given = json.dumps({**setting, "only": list(only)})
    # What is set for the tests, above all for proxies and tokens, is nothing to the client.
    ran = subprocess.run(
        [str(python), str(_SCRIPT)], input=given, env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"},
        capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    lines = ran.stdout.strip().splitlines()
    if ran.returncode or not lines:
        raise RuntimeError(f"{generation}: exit code {ran.returncode}: {ran.stderr[-2000:]}")
    return Ran(**json.loads(lines[-1]))
