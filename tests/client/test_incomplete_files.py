"""
What is not all there is told before it is sent: git-lfs pointers, and ONNX models whose weights are elsewhere.
"""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from modelyard.cli.incomplete_files import external_data
from modelyard.cli.main import main
from tests.client.memory import Server
from tests.client.memory_registry import Registry


def varint(number: int) -> bytes:
    """
    A number as protocol buffers write it.
    """
    low, rest = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


def field(number: int, value: int | bytes) -> bytes:
    """
    A field of a message of protocol buffers: a varint or bytes.
    """
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def model(*locations: str) -> bytes:
    """
    An ONNX model with weights of its own, and others in other files; large enough to be one.
    """
    own = field(5, field(1, 1) + field(8, b"own") + field(9, bytes(2000)))
    others = b"".join(
        field(
            5,
            field(8, b"w")
            + field(13, field(1, b"location") + field(2, location.encode()))
            + field(13, field(1, b"offset") + field(2, b"4096"))
            + field(14, 1),
        )
        for location in locations
    )
    graph = field(1, field(1, b"x") + field(4, b"Relu")) + field(2, b"graph") + own + others
    return field(1, 8) + field(2, b"somebody") + field(7, graph) + field(8, field(2, 17))


def test_the_files_that_a_model_names() -> None:
    """
    Each initializer's location is found, as it is written, and nothing else of what stands beside it.
    """
    data = model("weights.bin", "../x", "weights.bin")
    assert external_data(io.BytesIO(data), len(data)) == ["weights.bin", "../x", "weights.bin"]
    assert external_data(io.BytesIO(model()), len(model())) == []


@pytest.mark.parametrize("data", [b"", b"\xff" * 100, model("w")[:-30], b"text", model("w")[:40] + b"\xff" * 40])
def test_what_is_no_model_names_nothing(data: bytes) -> None:
    """
    A file that is no model, or is cut, is no error.
    """
    assert external_data(io.BytesIO(data), len(data)) in ([], ["w"])


def test_push_tells(server: Server, registry: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """
    Push warns of pointers, of weights that are not among the files, and of those outside of the folder, and goes on; a
    dry run warns, too.
    """
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 4976698672\n"
    (tmp_path / "net" / "sub").mkdir(parents=True)
    (tmp_path / "net" / "model.safetensors").write_bytes(pointer)
    (tmp_path / "net" / "whole.onnx").write_bytes(model("whole.bin"))
    (tmp_path / "net" / "whole.bin").write_bytes(b"w")
    (tmp_path / "net" / "sub" / "parts.onnx").write_bytes(model("lost.bin", "../whole.bin", "./here.bin"))
    (tmp_path / "net" / "sub" / "here.bin").write_bytes(b"w")
    command = ["--target", server.target, "versions", "push", "m", str(tmp_path / "net")]
    for more in (["--dry-run"], []):
        assert main([*command, *more]) == 0
        said = capsys.readouterr().err
        assert "warning: model.safetensors is a git-lfs pointer and not the file" in said
        assert 'warning: sub/parts.onnx names weights that are not among the files: "lost.bin"' in said
        assert (
            'warning: sub/parts.onnx names weights outside of its folder, which readers refuse: "../whole.bin"' in said
        )
        assert said.count("warning: ") == 3
    assert len(registry.versions) == 1
