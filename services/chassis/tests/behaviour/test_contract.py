"""
The probe's own contract.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from services.chassis.tests.behaviour.probe_process import ROOT

_PROTO = Path("services/chassis/tests/proto/probe.proto")


async def test_stubs(tmp_path: Path) -> None:
    """
    The stubs in the checkout are what the command in the contract makes of it.
    """
    (line,) = [line for line in (ROOT / _PROTO).read_text().splitlines() if "grpc_tools.protoc" in line]
    command = [word.replace(":.", f":{tmp_path}").replace("out=.", f"out={tmp_path}") for word in line.split()[2:]]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    process = await asyncio.create_subprocess_exec(sys.executable, *command, cwd=ROOT, env={**os.environ, "PATH": path})
    assert await process.wait() == 0
    made = sorted((tmp_path / _PROTO).parent.iterdir())
    assert len(made) == 4
    for stub in made:
        assert stub.read_text() == (ROOT / _PROTO).with_name(stub.name).read_text(), stub.name
