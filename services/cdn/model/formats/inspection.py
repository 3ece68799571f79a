"""
Detection of an asset's format, and warnings for its users.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass, replace
from typing import Any

from services.cdn.model.formats import pickles, safetensors
from services.cdn.model.formats.onnx import is_onnx
from services.cdn.model.formats.packing import pack, unpack
from services.cdn.model.formats.scanning import Scan
from services.cdn.model.formats.tensors import TensorIndex
from services.cdn.model.media_types import is_text, is_unknown
from services.chassis.errors import InvalidArgument

#: How much of an asset is inspected.
HEAD_BYTES = 8 * 1024 * 1024
#: Control characters that text files do not have; tab, line ends, form feed and escape are not among them.
_NOT_TEXT = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f\x7f]")

_NOT_SCANNED = Scan()
#: github.com/git-lfs/git-lfs, docs/spec.md, "The Pointer": less than 1,024 bytes, the version first.
_LFS, _MOST_LFS = b"version https://git-lfs.github.com/spec/", 1024


@dataclass(frozen=True, slots=True)
class Inspection:
    """
    The result of an inspection.

    Args:
        format: "SAFETENSORS", "ONNX", "PICKLE", "GGUF" or "TEXT"; empty if unknown.
        warnings: for users.
        parameter_count: number of elements in all tensors of a safetensors file; 0 for other formats.
        tensors: of a safetensors file whose header was read.
        scan: result of the security scan, once the whole file was scanned. `encode` does not include it.
    """

    format: str = ""
    warnings: tuple[str, ...] = ()
    parameter_count: int = 0
    tensors: TensorIndex | None = None
    scan: Scan = _NOT_SCANNED

    def scanned(self, scan: Scan) -> Inspection:
        """
        Add the result of the security scan.
        """
        if not scan.verdict and self.format == "PICKLE":
            # It begins like a pickle, but the scan found none: do not call it safe.
            scan = replace(scan, verdict="SUSPICIOUS", whole=False)
        is_pickle = scan.pickled and self.format in {"", "TEXT"}
        return replace(
            self,
            format="PICKLE" if is_pickle else self.format,
            warnings=(*self.warnings, *scan.warnings),
            scan=scan,
        )

    def encode(self) -> bytes:
        """
        The inspection for the database: JSON, compressed with zlib.
        """
        tensors = None if self.tensors is None else self.tensors.to_plain()
        return pack(
            {
                "format": self.format,
                "warnings": self.warnings,
                "parameters": self.parameter_count,
                "tensors": tensors,
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> Inspection:
        """
        Decode the result of ``encode``.

        Raises:
            ValueError: *data* is damaged.
        """
        return unpack(data, cls._from_plain)

    @classmethod
    def _from_plain(cls, plain: dict[str, Any]) -> Inspection:
        tensors = plain["tensors"]
        return cls(
            str(plain["format"]),
            tuple(map(str, plain["warnings"])),
            int(plain["parameters"]),
            None if tensors is None else TensorIndex.from_plain(tensors),
        )


def inspect(head: bytes, size_bytes: int, media_type: str, *, field: str = "chunk.data") -> Inspection:
    """
    Detect the format of an asset.

    Parsing a safetensors header takes twenty to forty times its size in memory, and six milliseconds per thousand
    tensors: run it in a thread, and limit the number of concurrent calls.

    Args:
        head: the first HEAD_BYTES of the asset, or all of it if it is smaller. Further bytes are ignored.
        size_bytes: of the asset.
        media_type: as declared; matters only for text.
        field: field of the request to name in errors.

    Raises:
        InvalidArgument: it is a safetensors file with an invalid header (SAFETENSORS_INVALID). It is rejected, since
            readers would fail or read out of bounds.
    """
    head = head[: min(HEAD_BYTES, size_bytes)]
    try:
        found = _safetensors(head, size_bytes)
    except safetensors.InvalidHeader as error:
        rule = f"is not a valid safetensors file: {error}"
        raise InvalidArgument.of(field, rule, reason="SAFETENSORS_INVALID") from None
    if found is not None:
        return found
    if _is_gguf(head):
        return Inspection("GGUF")
    if pickles.is_pickle(head, size_bytes):
        return Inspection("PICKLE")
    if is_onnx(head, size_bytes):
        return Inspection("ONNX")
    if head.startswith(_LFS) and size_bytes < _MOST_LFS:
        return Inspection("TEXT", ("git-lfs pointer: it only names a file, whose bytes are not here",))
    return Inspection("TEXT" if _is_text(head, size_bytes, media_type) else "")


def _safetensors(head: bytes, size_bytes: int) -> Inspection | None:
    """
    Raises:
        InvalidHeader: the header violates the format, or does not match the file.
    """
    header = safetensors.header_bytes(head)
    if header is None:
        return None
    safetensors.check_length(header, size_bytes)
    if header > len(head) - 8:
        warning = f"safetensors: the header of {header} bytes is too large to be checked, so that there is no index"
        return Inspection("SAFETENSORS", (warning,))
    try:
        index = safetensors.read_index(head, header, size_bytes)
    except safetensors.UnknownTypes as unknown:
        return Inspection(
            "SAFETENSORS", (f"safetensors: no index of its tensors, whose types are new here: {unknown}",)
        )
    return None if index is None else Inspection("SAFETENSORS", (), index.parameter_count, index)


def _is_gguf(head: bytes) -> bool:
    """
    The magic number and a small version, in either byte order, then counts (github.com/ggml-org/ggml, docs/gguf.md).
    """
    version = head[4:8]
    small = version[1:] == b"\0\0\0" or version[:3] == b"\0\0\0"
    return len(head) >= 16 and head.startswith(b"GGUF") and small and any(version)


def _is_text(head: bytes, size_bytes: int, media_type: str) -> bool:
    unknown = is_unknown(media_type)
    if not head or not (unknown or is_text(media_type)) or b"\0" in head:
        return False
    if unknown and _NOT_TEXT.search(head):
        return False
    try:
        # A character may be incomplete at the end of the head, but not at the end of the file.
        codecs.getincrementaldecoder("utf-8")().decode(head, final=len(head) >= size_bytes)
    except UnicodeDecodeError:
        return False
    return True
