"""
Conversion of values to messages.
"""

from __future__ import annotations

from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from modelyard.cdn.v1 import assets_pb2, uploads_pb2
from services.cdn.model import Asset, Draft, Upload, UploadWay
from services.cdn.model.formats import TensorIndex

# Tags of the wire format: the field's number and its type, length-delimited (2) in both.
_CHUNK, _DATA = b"\x0a", b"\x12"


def serialized_chunk(offset: int, data: bytes) -> bytes:
    """
    A serialised DownloadResponse with a chunk. Protobuf's own serialisation copies the bytes repeatedly, which costs
    more than a second per GiB.

    Source: https://protobuf.dev/programming-guides/encoding/
    """
    before = assets_pb2.Chunk(offset=offset).SerializeToString() + _DATA + _varint(len(data))
    return b"".join((_CHUNK, _varint(len(before) + len(data)), before, data))


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)


def from_asset(asset: Asset) -> assets_pb2.Asset:
    """
    The message of an asset.
    """
    known = asset.format and assets_pb2.Asset.Format.Value(f"FORMAT_{asset.format}")
    return assets_pb2.Asset(
        name=asset.name,
        sha256=asset.sha256,
        size_bytes=asset.size_bytes,
        media_type=asset.media_type,
        create_time=_time(asset.create_time),
        format=known or assets_pb2.Asset.FORMAT_UNSPECIFIED,
        warnings=asset.warnings,
        content_encodings=asset.encodings,
        private=asset.private,
        parameter_count=asset.parameter_count,
        revision=asset.revision,
        verdict=assets_pb2.Asset.Verdict.Value(f"VERDICT_{asset.verdict or 'UNSPECIFIED'}"),
        loads=asset.loads,
    )


def from_index(index: TensorIndex, token: str) -> assets_pb2.TensorIndex:
    """
    The message of a page of a tensor index.

    Args:
        token: of the next page; empty after the last.
    """
    return assets_pb2.TensorIndex(
        tensors=[
            assets_pb2.TensorIndex.Tensor(
                name=tensor.name,
                dtype=tensor.dtype,
                shape=tensor.shape,
                offset=tensor.offset,
                size_bytes=tensor.size_bytes,
            )
            for tensor in index.tensors
        ],
        parameter_count=index.parameter_count,
        metadata=index.metadata,
        next_page_token=token,
    )


def from_stored(upload: str, draft: Draft) -> uploads_pb2.Upload:
    """
    The message of an upload of bytes that are already stored.

    Args:
        upload: its id.
    """
    return uploads_pb2.Upload(
        name=f"uploads/{upload}",
        sha256=draft.sha256,
        size_bytes=draft.size_bytes,
        media_type=draft.media_type,
        owner=draft.owner,
        committed_bytes=draft.size_bytes,
        part_size_bytes=draft.part_bytes,
        complete=True,
    )


def from_upload(upload: Upload, committed: int) -> uploads_pb2.Upload:
    """
    The message of an upload.

    Args:
        committed: number of committed bytes.
    """
    draft = upload.draft
    return uploads_pb2.Upload(
        name=upload.name,
        sha256=draft.sha256,
        size_bytes=draft.size_bytes,
        media_type=draft.media_type,
        owner=draft.owner,
        committed_bytes=committed,
        part_size_bytes=upload.part_bytes,
        expire_time=_time(upload.expire_time),
        direct=upload.way is UploadWay.DIRECT,
        in_use=upload.in_use,
    )


def _time(moment: datetime) -> Timestamp:
    found = Timestamp()
    found.FromDatetime(moment)
    return found
