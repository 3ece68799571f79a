"""
The contracts are compared with those of the last release, and what breaks them is found.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorSet

ROOT = Path(__file__).resolve().parents[2]
RELEASED = ROOT / "protos" / "released.binpb"


def _message(files: FileDescriptorSet, name: str) -> DescriptorProto:
    package, _, own = name.rpartition(".")
    return next(
        each for file in files.file if file.package == package for each in file.message_type if each.name == own
    )


def _remove_a_field(files: FileDescriptorSet) -> None:
    del _message(files, "modelyard.registry.v1.Model").field[2]


def _change_a_type(files: FileDescriptorSet) -> None:
    _message(files, "modelyard.registry.v1.Model").field[1].type = FieldDescriptorProto.TYPE_INT64


def _remove_an_rpc(files: FileDescriptorSet) -> None:
    service = next(each for file in files.file for each in file.service if each.name == "ModelService")
    del service.method[0]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda _: None, ""),
        (_remove_a_field, 'Previously present field "3"'),
        (_change_a_type, "changed type"),
        (_remove_an_rpc, "Previously present RPC"),
    ],
    ids=["nothing", "field", "type", "rpc"],
)
def test_what_breaks_is_found(change: Callable[[FileDescriptorSet], None], says: str, tmp_path: Path) -> None:
    """
    A field that is gone, a type that changed, and an RPC that is gone break the contracts; the released do not.
    """
    files = FileDescriptorSet.FromString(RELEASED.read_bytes())
    change(files)
    image = tmp_path / "now.binpb"
    image.write_bytes(files.SerializeToString())
    command = [str(Path(sys.executable).parent / "buf"), "breaking", str(image), "--against", str(RELEASED)]
    done = subprocess.run(
        [*command, "--path", "modelyard"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode == 0) == (not says), done.stdout + done.stderr
    assert says in done.stdout
