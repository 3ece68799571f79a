"""
Handling of call metadata that all methods share: reads the caller's metadata, returns the revision.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar, cast

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from services.chassis.access.hidden import hidden
from services.chassis.access.requests import rename
from services.chassis.errors import InvalidArgument
from services.chassis.interceptors import caller, current_call, identity, request_id
from services.chassis.serving.context import Context
from services.ledger.model.calls import ANONYMOUS, Missing, Write, check_reached
from services.ledger.store.database import min_revision
from services.ledger.store.transactions import Transaction
from services.ledger.store.writer import Writer

REVISION = "x-revision"
MIN_REVISION = "x-min-revision"
_MOST_SUBJECT = 256


class _Revised(Protocol):
    @property
    def revision(self) -> int: ...


T = TypeVar("T")
R = TypeVar("R", bound=_Revised)
M = TypeVar("M", bound=Message)


async def reflect(context: Context, reading: Coroutine[Any, Any, R]) -> R:
    """
    Await a read and report in the trailing metadata which revision it reflects. NOT_FOUND has one, too, because a
    cache may store it.

    Raises:
        FailedPrecondition: the minimum revision that the client asks for does not exist (REVISION_NOT_REACHED).
    """
    try:
        min_revision.set(min_revision_of(context))
    except InvalidArgument:
        reading.close()
        raise
    try:
        found = await reading
    except Missing as error:
        if error.revision is not None:
            _trail(context, error.revision)
        raise
    _trail(context, found.revision)
    return found


def min_revision_of(context: Context) -> int:
    """
    The revision that a call has seen, by its metadata; 0 when it does not say.

    Raises:
        InvalidArgument: it is not a revision.
    """
    least = 0
    for key, value in context.invocation_metadata() or ():
        if key == MIN_REVISION:
            wanted = str(value)
            if not (wanted.isascii() and wanted.isdigit() and len(wanted) < 20):
                raise InvalidArgument.of(MIN_REVISION, "must be a revision: a whole number that is not negative")
            least = int(wanted)
    return least


def _trail(context: Context, revision: int) -> None:
    check_reached(min_revision.get(), revision)
    say_revision(context, revision)


def say_revision(context: Context, revision: int) -> None:
    """
    Report in the trailing metadata which revision the response reflects. For a stream of batches, the last call counts.
    """
    others = [pair for pair in context.trailing_metadata() if pair[0] != REVISION]
    context.set_trailing_metadata((*others, (REVISION, str(revision))))


class Mutations:
    """
    Runs mutations exactly once.
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
        touches: Sequence[object] | None,
        dry: bool = False,
    ) -> M:
        """
        Run a mutation, or return the stored response of an earlier attempt.

        Args:
            answer: the class of the response.
            work: runs the mutation in the given transaction.
            render: converts the result to the response.
            touches: the resources whose rows *work* locks; None if it cannot be grouped (see `Writer.run`).
            dry: only check (`validate_only`).

        Raises:
            AlreadyExists: `request_id` was used for another request.
            FailedPrecondition: the caller has seen a revision that does not exist (REVISION_NOT_REACHED).
        """
        write = await self._write(context, request, dry=dry)
        answers: list[M] = []

        def encode(value: T) -> bytes:
            # Render inside the transaction, so that the response is stored with the write.
            answers.append(render(value))
            return answers[-1].SerializeToString()

        done = await self._writer.run(write, work, encode, touches)
        say_revision(context, done.revision)
        if done.answer is not None:
            return answer.FromString(done.answer)
        if answers:
            return answers[-1]
        rendered = render(cast("T", done.value))
        return _unwritten(rendered) if dry else rendered

    async def before(
        self, context: Context, request: Message, work: Callable[[Write], Coroutine[Any, Any, None]]
    ) -> None:
        """
        Run preparatory work that is too large for one transaction; skipped if the mutation has already been done.

        Args:
            work: runs in separate writes on behalf of the given caller.

        Raises:
            AlreadyExists, FailedPrecondition: as `do`.
        """
        write = await self._write(context, request, dry=False)
        if await self._writer.earlier(write) is None:
            await work(write)

    async def check_reached(self, context: Context) -> None:
        """
        Check early what `do` would reject, for mutations with expensive work before their write.

        Raises:
            FailedPrecondition: the caller has seen a revision that does not exist (REVISION_NOT_REACHED).
        """
        await self._writer.check_reached(min_revision_of(context))

    async def earlier(self, context: Context, request: Message, answer: type[M]) -> M | None:
        """
        The stored response of an earlier attempt, for mutations that check other services before their transaction: a
        retry must not fail because of what has changed since.

        Args:
            answer: the class of the answer.

        Raises:
            AlreadyExists, FailedPrecondition: as `do`.
        """
        done = await self._writer.earlier(await self._write(context, request, dry=False))
        if done is None or done.answer is None:
            return None
        say_revision(context, done.revision)
        return answer.FromString(done.answer)

    async def _write(self, context: Context, request: Message, *, dry: bool) -> Write:
        """
        The metadata of a mutation. In a namespace that is hidden from the caller, a request id that it has used for
        another request is refused, as in one that does not exist; otherwise the id is replaced, because an earlier
        response to the same request would tell that the namespace was there.

        Raises:
            AlreadyExists, FailedPrecondition: as `do`.
        """
        write = _write(context, request, dry=dry)
        if not (hidden() and write.request_id):
            return write
        if not dry:
            await self._writer.earlier(write)
        return replace(write, request_id=secrets.token_hex(16))


def nothing(_written: object) -> Empty:
    """
    The empty response of a write.
    """
    return Empty()


def _unwritten(answer: M) -> M:
    """
    The response of a dry run without its revision: another write will get that one, and its etag must not match a
    state that was never written.
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
    own: str = getattr(request, "request_id", "")  # imports have no such field
    content = _asked(request).SerializeToString(deterministic=True) if own else b""
    digest = hashlib.sha256(action.encode() + b"\0" + content).digest()
    call = current_call()
    return Write(
        subject(context),
        action,
        own,
        request_id() or "",
        digest,
        dry,
        min_revision_of(context),
        identity(),
        break_glass=call is not None and call.break_glass,
    )


def _asked(request: Message) -> Message:
    """
    A request as it was sent, with the names of hidden namespaces.
    """
    if not hidden():
        return request
    asked = type(request)()
    asked.CopyFrom(request)
    rename(asked, hidden())
    return asked


def subject(_context: Context) -> str:
    """
    The caller: the subject of the token that this process has verified or, while access control is off, the name that
    the gateway passes on.
    """
    return caller()[:_MOST_SUBJECT] or ANONYMOUS
