"""
Files on their way to and from a Modelyard: hashed, resumed, verified. No network here: both clients use it.
"""

from modelyard.transfer.attempts import Attempts, Turns
from modelyard.transfer.errors import FileChangedError, IntegrityError
from modelyard.transfer.gathering import Gathering
from modelyard.transfer.incoming import Incoming
from modelyard.transfer.outgoing import Outgoing
from modelyard.transfer.progress import Progress, no_progress
from modelyard.transfer.ranges import RANGED_BYTES, STREAMS, RangedIncoming
from modelyard.transfer.steps import Call, Pause, Plan
from modelyard.transfer.uploading import upload

__all__ = [
    "RANGED_BYTES",
    "STREAMS",
    "Attempts",
    "Call",
    "FileChangedError",
    "Gathering",
    "Incoming",
    "IntegrityError",
    "Outgoing",
    "Pause",
    "Plan",
    "Progress",
    "RangedIncoming",
    "Turns",
    "no_progress",
    "upload",
]
