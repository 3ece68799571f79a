"""
Detection of pickles and PyTorch files, without executing anything.

The opcodes and the lengths of their arguments are those of the standard library's ``pickletools``. A pickle of protocol
0 or 1 has no magic number, and is detected by its calls. The security scan is in scanning.py.
"""

from __future__ import annotations

import io
import pickletools
import re
from collections.abc import Iterator
from itertools import islice

#: Number of valid opcodes that make a file a pickle; fewer if it ends earlier.
_ENOUGH = 32
_OPCODES = {opcode.code.encode("latin-1")[0]: opcode for opcode in pickletools.opcodes}
_PROTO, _STOP, _FRAME = 0x80, ord("."), 0x95
#: GLOBAL, INST, STACK_GLOBAL and EXT1 to EXT4: the opcodes that look up what a pickle calls.
_NAMING = frozenset(b"ci\x93\x82\x83\x84")
#: Arguments with a length prefix, and the size of that prefix in bytes.
_COUNTED = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}
#: torch.save creates a zip with the first of these entries, TorchScript with both.
_ENTRIES = (b"data.pkl", b"constants.pkl")
_LOCAL_HEADER = b"PK\x03\x04"
#: Size of a local file header before the entry's name (APPNOTE.TXT, 4.3.7).
_LOCAL_HEADER_BYTES = 30
_MOST_ENTRIES = 1000
#: Limits of the detection of protocols 0 and 1: the first call must be within these bytes and opcodes.
_LOOKED_AT, _MOST_OPCODES = 65536, 5000
_CALLING = frozenset({"REDUCE", "INST", "OBJ", "BUILD"})
#: Module and name, as returned by pickletools.
_NAME = re.compile(r"[A-Za-z_][\w.]* [A-Za-z_][\w.]*")


def is_pickle(head: bytes, size_bytes: int) -> bool:
    """
    Whether a file of *size_bytes* that begins with *head* is a pickle, or a zip from which PyTorch loads one.
    """
    return is_raw(head, size_bytes) or _is_torch_zip(head) or is_text(head)


def is_text(head: bytes) -> bool:
    """
    Whether *head* begins a pickle of protocol 0 or 1 that calls something: valid opcodes up to a call of a name that
    was looked up before. Readers execute a pickle up to its first invalid opcode.
    """
    stack: list[object] = []
    named = False
    try:
        for opcode, argument, _ in islice(pickletools.genops(io.BytesIO(head[:_LOOKED_AT])), _MOST_OPCODES):
            if opcode.name in {"GLOBAL", "INST"}:
                if not _NAME.fullmatch(str(argument)):
                    return False
                named = True
            elif opcode.proto > 1:
                return False
            _carry_out(opcode, stack)
            if named and opcode.name in _CALLING:
                return True
    except Exception:  # noqa: BLE001 - pickletools raises many kinds for bytes that are not a pickle
        return False
    return False


def _carry_out(opcode: pickletools.OpcodeInfo, stack: list[object]) -> None:
    """
    Raises:
        ValueError, IndexError: the opcode is not valid with this stack.
    """
    takes = list(opcode.stack_before)
    if pickletools.markobject in takes:
        while stack.pop() is not pickletools.markobject:
            pass
        takes = takes[: takes.index(pickletools.markobject)]
    for _ in takes:
        if stack.pop() is pickletools.markobject and opcode.name != "POP":
            raise ValueError("unexpected mark")
    stack.extend(opcode.stack_after)


def is_raw(head: bytes, size_bytes: int) -> bool:
    """
    Whether a file of *size_bytes* that begins with *head* is a pickle of protocol 2 to 5. PyTorch's legacy format is
    one, since it begins with a pickled magic number.
    """
    if len(head) < 4 or head[0] != _PROTO or not 2 <= head[1] <= 5:
        return False
    codes = list(islice(_walk(head, 2, size_bytes), _ENOUGH))
    if codes[-1] is None:
        # Readers execute a pickle up to its first invalid opcode.
        return not _NAMING.isdisjoint(codes)
    # More than a single STOP, or an argument that extends past the head.
    return len(codes) > 1 or len(head) < size_bytes


def _walk(head: bytes, place: int, size_bytes: int) -> Iterator[int | None]:
    """
    The opcodes from *place* to the end of the pickle or of the head; None for an invalid one.
    """
    while place < len(head):
        code = head[place]
        opcode = _OPCODES.get(code)
        end = None if opcode is None or code == _PROTO else _end(head, place + 1, opcode.arg)
        if end is None or end > size_bytes or (code == _FRAME and not _frame_fits(head, place, size_bytes)):
            yield None
            return
        yield code
        if code == _STOP:
            return
        place = end


def _frame_fits(head: bytes, place: int, size_bytes: int) -> bool:
    return place + 9 + int.from_bytes(head[place + 1 : place + 9], "little") <= size_bytes


def _end(head: bytes, place: int, argument: pickletools.ArgumentDescriptor | None) -> int | None:
    """
    End of an opcode's argument that begins at *place*, possibly past the head; None if it is not terminated.
    """
    if argument is None:
        return place
    if argument.n >= 0:
        return place + argument.n
    if (width := _COUNTED.get(argument.n)) is not None:
        return place + width + int.from_bytes(head[place : place + width], "little")
    for _ in range(2 if argument is pickletools.stringnl_noescape_pair else 1):
        place = head.find(b"\n", place) + 1
        if not place:
            return None
    return place


def _is_torch_zip(head: bytes) -> bool:
    place = 0 if head.startswith(_LOCAL_HEADER) else -1
    for _ in range(_MOST_ENTRIES):
        if place < 0:
            return False
        length = int.from_bytes(head[place + 26 : place + 28], "little")
        start = place + _LOCAL_HEADER_BYTES
        name = head[start : start + length]
        if name.rpartition(b"/")[2] in _ENTRIES:
            return True
        # By its signature, not by the entry's size: PyTorch writes the sizes after the bytes.
        place = head.find(_LOCAL_HEADER, start)
    return False
