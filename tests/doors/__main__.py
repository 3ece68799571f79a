"""
`make doors`: flows of the Hub's clients × generations of them, with access control off and on, as a table.

Settings: GENERATIONS=hub0,hub1,hub2; ACCESS=off,on; FLOWS, names separated by `;`. The last line is one JSON object.
"""

from __future__ import annotations

import json
import os
import sys

from bench.form import table
from embedded.stack import Stack, StackSettings
from embedded.testing import scratch
from tests.doors import clients
from tests.doors.repositories import publish


def main() -> int:
    """
    Run every flow with every client.

    Returns:
        The exit code: 0 when all of them passed.
    """
    generations = os.environ.get("GENERATIONS", ",".join(clients.GENERATIONS)).split(",")
    modes = os.environ.get("ACCESS", "off,on").split(",")
    only = [name.strip() for name in os.environ.get("FLOWS", "").split(";") if name.strip()]
    ran: dict[str, clients.Ran] = {}
    for mode in modes:
        with scratch() as state, Stack(StackSettings(state=state, gateway_port=0, access=mode)) as stack:
            setting = publish(stack, "team").setting
            for generation in generations:
                found = clients.run(generation, setting, only)
                ran[f"{found.version}, access {mode}"] = found
                print(f"huggingface_hub {found.version}, access {mode}: {len(found.failed)} failed", flush=True)
            stack.kill("s3")
    print(f"\n{_table(ran)}\n")
    failed = {lane: found.failed for lane, found in ran.items() if found.failed}
    for lane, flows in failed.items():
        for name, said in flows.items():
            print(f"FAILED  {lane}: {name}: {said}")
    notes = {lane: dict(found.notes) for lane, found in ran.items()}
    last = {"target": "doors", "verdict": "FAIL" if failed else "PASS", "flows": _as_json(ran), "notes": notes}
    print(json.dumps(last), flush=True)
    return 1 if failed else 0


def _table(ran: dict[str, clients.Ran]) -> str:
    names = list(dict.fromkeys(name for found in ran.values() for name in found.flows))
    rows = [
        (name, *(_cell(found.flows.get(name, "-")) + _note(found, name) for found in ran.values())) for name in names
    ]
    return table(("flow", *ran), rows)


def _cell(said: str) -> str:
    return said if said in {"ok", "-"} else "FAILED"


def _note(found: clients.Ran, name: str) -> str:
    note = found.notes.get(name)
    return f" ({note})" if note else ""


def _as_json(ran: dict[str, clients.Ran]) -> dict[str, dict[str, str]]:
    return {lane: dict(found.flows) for lane, found in ran.items()}


if __name__ == "__main__":
    sys.exit(main())
