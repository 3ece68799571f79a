"""
What every method does with the metadata of its call: the revision out, the caller in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

from google.protobuf.message import Message

from services.chassis.context import Context
from services.chassis.errors import InvalidArgument, Unavailable
from services.chassis.interceptors import request_id
from services.registry.model.calls import ANONYMOUS, Missing, Write
from services.registry.store.writing import Transaction, Writer

REVISION = "x-revision"
MIN_REVISION = "x-min-revision"
SUBJECT = "x-modelyard-subject"
_MOST_SUBJECT = 256


class _Revised(Protocol):
    @property
    def revision(self) -> int: ...


T = TypeVar("T")
R = TypeVar("R", bound=_Revised)
M = TypeVar("M", bound=Message)


async def reflect(context: Context, reading: Awaitable[R]) -> R:
    """
    Await a read, and say in the trailing metadata which revision it reflects: also when there is nothing, because
    absence is an answer that a cache may keep.

    Raises:
        Unavailable: the read does not reflect the revision that the client asked for at least.
    """
    try:
        found = await reading
    except Missing as error:
        if error.revision is not None:
            _trail(context, error.revision)
        raise
    _trail(context, found.revision)
    return found


def _trail(context: Context, revision: int) -> None:
    for key, value in context.invocation_metadata() or ():
        if key == MIN_REVISION:
            _check_min_revision(str(value), revision)
    _say(context, revision)


def _check_min_revision(wanted: str, revision: int) -> None:
    if not (wanted.isascii() and wanted.isdigit() and len(wanted) < 20):
        raise InvalidArgument.of(MIN_REVISION, "must be a revision: a whole number that is not negative")
    if int(wanted) > revision:
        raise Unavailable(
            "REVISION_NOT_REACHED",
            f"revision {wanted} has not been reached: this is {revision}; retry",
            metadata={"revision": str(revision)},
            retry_after=0.05,
        )


class Mutations:
    """
    Does mutations once each.
    """

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    async def do(
        self,
        context: Context,
        request: Message,
        answer: type[M],
        work: Callable[[Transaction], Awaitable[T]],
        render: Callable[[T], M],
        *,
        dry: bool = False,
    ) -> M:
        """
        Do a mutation, or find the answer that it was given before.

        Args:
            answer: the class of the answer.
            work: does it, in the transaction that it is given.
            render: what was written, as that answer.
            dry: only check (`validate_only`).

        Raises:
            AlreadyExists: `request_id` was used for another request.
        """
        write = _write(context, request, dry=dry)
        answers: list[M] = []

        def encode(value: T) -> bytes:
            # The answer is made while it can still be stored with the write.
            answers.append(render(value))
            return answers[-1].SerializeToString()

        done = await self._writer.run(write, work, encode)
        _say(context, done.revision)
        if done.answer is not None:
            return answer.FromString(done.answer)
        if answers:
            return answers[-1]
        assert done.value is not None  # noqa: S101 - for the type checker: only a retry has none
        rendered = render(done.value)
        return _unwritten(rendered) if dry else rendered


def _say(context: Context, revision: int) -> None:
    # A stream of batches says it more than once: the last one counts.
    others = [pair for pair in context.trailing_metadata() if pair[0] != REVISION]
    context.set_trailing_metadata((*others, (REVISION, str(revision))))


def _unwritten(answer: M) -> M:
    """
    The answer of a dry run without the revision that it would have had: another write will get that one, and its etag
    must not match what was never written.
    """
    for field, value in answer.ListFields():
        if field.name in {"revision", "etag"}:
            answer.ClearField(field.name)
        elif field.message_type is not None and field.message_type.file is answer.DESCRIPTOR.file:
            for each in value if isinstance(value, Sequence) else [value]:
                _unwritten(each)
    return answer


def _write(context: Context, request: Message, *, dry: bool) -> Write:
    action = type(request).__name__.removesuffix("Request")
    own: str = getattr(request, "request_id", "")  # imports have none
    content = request.SerializeToString(deterministic=True) if own else b""
    digest = hashlib.sha256(action.encode() + b"\0" + content).digest()
    return Write(_subject(context), action, own, request_id() or "", digest, dry)


def _subject(context: Context) -> str:
    for key, value in context.invocation_metadata() or ():
        if key == SUBJECT and isinstance(value, str) and value:
            return value[:_MOST_SUBJECT]
    return ANONYMOUS
