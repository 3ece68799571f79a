"""
File transfers: hashing, resuming, verification. Without network I/O, so that both clients use it.
"""

from typing import TYPE_CHECKING

from modelyard._deprecated import aliases
from modelyard.transfer.download import Download
from modelyard.transfer.errors import FileChangedError, IntegrityError
from modelyard.transfer.progress import ProgressCallback, no_progress
from modelyard.transfer.range_download import RANGED_BYTES, STREAMS, RangeDownload
from modelyard.transfer.retries import Attempts, PollDelays
from modelyard.transfer.steps import Call, Pause, Plan
from modelyard.transfer.stream_download import StreamDownload
from modelyard.transfer.upload_source import UploadSource
from modelyard.transfer.uploads import upload

__all__ = [
    "RANGED_BYTES",
    "STREAMS",
    "Attempts",
    "Call",
    "Download",
    "FileChangedError",
    "IntegrityError",
    "Pause",
    "Plan",
    "PollDelays",
    "ProgressCallback",
    "RangeDownload",
    "StreamDownload",
    "UploadSource",
    "no_progress",
    "upload",
]

if not TYPE_CHECKING:
    __getattr__ = aliases(
        __name__,
        {
            "Outgoing": ("modelyard.UploadSource", UploadSource),
            "Progress": ("modelyard.ProgressCallback", ProgressCallback),
        },
    )
