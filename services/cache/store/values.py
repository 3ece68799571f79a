"""
The values of the key-value cache, in Valkey. The Lua scripts are in scripts.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

from services.cache.model.namespaces import Namespace
from services.cache.model.values import Draft, Found, Hit, Invalidation, Lease, Log, Sizes, Stored, Value, Wait
from services.cache.store import scripts
from services.cache.store.valkey import Busy, Full, Refused, Script, Unreachable, Valkey
from services.chassis.errors import Aborted, FailedPrecondition, ResourceExhausted, Unavailable

T = TypeVar("T")
# Bytes of names in one page of the log (approximate), and of values in one answer (a limit).
_LOG_PAGE_BYTES = 256 << 10
_MOST_ANSWER_BYTES = 15 << 20
# A script removes at most about a thousand entries of a full namespace; a write is retried so often.
_SWEEPS = 100
# Minimum timeout in seconds. There is no other source of values, so that short delays of Valkey are tolerated.
_SECONDS = 0.5
_BLOCK_MILLISECONDS = 400


class ValueStore:
    """
    Values by namespace and key.

    Every method raises `Unavailable` when Valkey does not answer, and `ResourceExhausted` when it has no memory left.

    Args:
        valkey: the connection.
        waiting: a separate one for blocking reads of the logs, which would exhaust the connections of the calls.
        prefix: of the keys; differs between suites that share a Valkey.
    """

    def __init__(self, valkey: Valkey, waiting: Valkey, prefix: str) -> None:
        self._valkey = valkey
        self._waiting = waiting
        self._prefix = prefix

    async def get(self, namespace: Namespace, keys: Sequence[str]) -> Found:
        """
        The values of *keys*.

        Raises:
            ResourceExhausted: the values exceed the maximum size of an answer.
        """

        def read(answer: Any) -> Found:
            sequence, *found = answer
            values = [None if one is None else _value(one, key) for one, key in zip(found, keys, strict=True)]
            return Found(int(sequence), values)

        return await self._run(scripts.GET, namespace, read, _MOST_ANSWER_BYTES, *keys)

    async def set(self, namespace: Namespace, drafts: Sequence[Draft]) -> Stored:
        """
        Store values: all of them or none.

        Raises:
            ResourceExhausted: the namespace's quota is used up.
        """
        arguments = [part for draft in drafts for part in (draft.key, draft.value, draft.ttl, "\n".join(draft.tags))]
        return await self._write(scripts.SET, namespace, _stored, *arguments)

    async def delete(self, namespace: Namespace, keys: Sequence[str]) -> tuple[int, int]:
        """
        Remove *keys*, and return the sequence and how many existed.
        """
        return await self._write(scripts.DELETE, namespace, _two_integers, *keys)

    async def touch(self, namespace: Namespace, key: str, ttl: int) -> int | None:
        """
        Set the TTL of *key*, and return when it expires in ms since the epoch; None if there is no such key.
        """
        return await self._write(
            scripts.TOUCH, namespace, lambda found: None if found is None else int(found), key, ttl
        )

    async def invalidate(self, namespace: Namespace, tags: Sequence[str]) -> int:
        """
        Invalidate all entries that have one of *tags*, and return the sequence.
        """
        return await self._write(scripts.INVALIDATE, namespace, int, int(namespace.most_ttl_seconds * 1000), *tags)

    async def get_or_lease(self, namespace: Namespace, key: str, milliseconds: int) -> Hit | Lease | Wait:
        """
        The value of *key*, or the lease to fill it, or how long another caller holds the lease.
        """

        def read(answer: Any) -> Hit | Lease | Wait:
            match answer:
                case [b"entry", sequence, found]:
                    return Hit(int(sequence), _value(found, key))
                case [b"lease", token, expires]:
                    return Lease(str(int(token)), int(expires))
                case [b"wait", left]:
                    return Wait(int(left))
            raise ValueError("neither an entry nor a lease")

        return await self._write(scripts.GET_OR_LEASE, namespace, read, key, milliseconds)

    async def fill(self, namespace: Namespace, token: str, draft: Draft) -> Stored:
        """
        Store the value that a lease was given for.

        Raises:
            Aborted: the lease was lost.
            ResourceExhausted: the namespace's quota is used up.
        """
        entry = (draft.key, draft.value, draft.ttl, "\n".join(draft.tags))
        return await self._write(scripts.FILL, namespace, _stored, token, *entry)

    async def increment(self, namespace: Namespace, key: str, delta: int, ttl: int) -> tuple[int, int]:
        """
        Add to a counter, and return the sequence and its new value.

        Raises:
            FailedPrecondition: the value is not an integer, or would overflow.
            ResourceExhausted: the namespace's quota is used up.
        """
        return await self._write(scripts.INCREMENT, namespace, _two_integers, key, delta, ttl)

    async def scan(self, namespace: Namespace, prefix: str, after: str, most: int) -> tuple[list[str], str]:
        """
        Keys in order. One call examines a limited number of keys, which may all be of invalid entries.

        Args:
            prefix: of the keys.
            after: the key after which to start; empty for the start.
            most: maximum number of keys.

        Returns:
            The keys, and the one after which to continue; empty when there are no more.
        """

        def read(answer: Any) -> tuple[list[str], str]:
            last, keys = answer
            return [key.decode() for key in keys], last.decode()

        # The empty name always exists, and is not a key.
        begin = f"({after}" if after else f"[{prefix}" if prefix else "("
        # Keys are ASCII: no byte of one is above 0x7f.
        end = f"({prefix}\x7f" if prefix else "+"
        return await self._run(scripts.SCAN, namespace, read, begin, end, most)

    async def sizes(self, namespace: Namespace) -> Sizes:
        """
        The number and size of the namespace's entries.
        """
        return await self._run(scripts.STATS, namespace, lambda found: Sizes(*map(int, found)))

    async def log(self, namespace: Namespace, after: int) -> Log:
        """
        The changes after a sequence.
        """

        def read(answer: Any) -> Log:
            epoch, head, kept, complete, found = answer
            events = [_invalidation(int(sequence), fields) for sequence, fields in found]
            return Log(int(epoch), int(head), int(kept), events, bool(complete))

        return await self._run(scripts.LOG, namespace, read, after, _LOG_PAGE_BYTES)

    async def wait(self, namespace: Namespace, after: int) -> None:
        """
        Wait for a change after a sequence, up to a timeout.
        """
        log = self._base(namespace) + b":log"
        try:
            await self._waiting.run(
                lambda client: client.xread({log: f"{after}-0"}, count=1, block=_BLOCK_MILLISECONDS),
                key=log,
                timeout=2 * _BLOCK_MILLISECONDS / 1000,
            )
        except (Unreachable, Refused) as error:
            _translate(error)

    def _base(self, namespace: Namespace) -> bytes:
        # A hash tag in braces puts all keys of a namespace into one hash slot, where scripts can use them together.
        return f"{self._prefix}:v:{{{namespace.id}}}".encode()

    async def _write(
        self, script: Script, namespace: Namespace, read: Callable[[Any], T], *arguments: bytes | int | str
    ) -> T:
        return await self._run(script, namespace, read, namespace.most_bytes, *arguments)

    async def _run(
        self, script: Script, namespace: Namespace, read: Callable[[Any], T], *arguments: bytes | int | str
    ) -> T:
        base = self._base(namespace)
        answer = await self._answer(script, base, arguments)
        _check(answer, namespace)
        try:
            found = read(answer)
        except (ValueError, TypeError, AttributeError) as error:
            self._valkey.malformed(base + b":meta")
            raise Unavailable("SHARED_STORE", "the answer of the shared store is malformed", retry_after=0.5) from error
        self._valkey.well_formed()
        return found

    async def _answer(self, script: Script, base: bytes, arguments: Sequence[bytes | int | str]) -> Any:
        """
        The answer of a script, which is called again for as long as it had to remove entries first.
        """
        seconds = max(_SECONDS, self._valkey.timeout)
        for _ in range(_SWEEPS):
            try:
                answer = await self._valkey.script(script, [base + b":meta"], [base, *arguments], timeout=seconds)
            except (Unreachable, Refused) as error:
                _translate(error)
            if answer != b"AGAIN":
                return answer
        return b"QUOTA"


def _translate(error: Unreachable | Refused) -> NoReturn:
    if isinstance(error, Busy):
        raise ResourceExhausted("CACHE_BUSY", "too many calls wait for the shared store", retry_after=0.1) from error
    if isinstance(error, Full):
        raise ResourceExhausted("CACHE_FULL", "Valkey has no memory left", retry_after=1.0) from error
    message = "the shared store does not answer" if isinstance(error, Unreachable) else f"the shared store: {error}"
    raise Unavailable("SHARED_STORE", message, retry_after=0.5) from error


def _check(answer: Any, namespace: Namespace) -> None:
    match answer:
        case b"QUOTA":
            raise ResourceExhausted(
                "CACHE_QUOTA",
                f"the quota of {namespace.id}, {namespace.most_bytes:,} bytes, is used up",
                metadata={"namespace": namespace.id},
            )
        case b"LARGE":
            raise ResourceExhausted(
                "ANSWER_TOO_LARGE",
                f"the values exceed {_MOST_ANSWER_BYTES:,} bytes in total: request fewer keys per call",
            )
        case b"LOST":
            raise Aborted(
                "LEASE_LOST", "the lease expired, or the key changed or was invalidated: call GetOrLease again"
            )
        case b"NAN":
            raise FailedPrecondition("NOT_A_COUNTER", "the value of the key is not an integer")
        case b"OVERFLOW":
            raise FailedPrecondition("OVERFLOW", "the counter would exceed the range of int64")


def _stored(answer: Any) -> Stored:
    return Stored(*_two_integers(answer))


def _two_integers(answer: Any) -> tuple[int, int]:
    first, second = answer
    return int(first), int(second)


def _value(found: Any, wanted: str) -> Value:
    key, value, tags, expires = found
    if key != wanted.encode() or not isinstance(value, bytes):
        raise ValueError("the answer does not match the request")
    return Value(wanted, value, tuple(tags.decode().split("\n")) if tags else (), int(expires))


def _invalidation(sequence: int, fields: list[bytes]) -> Invalidation:
    pairs = list(zip(fields[::2], fields[1::2], strict=True))
    keys = tuple(name.decode() for kind, name in pairs if kind == b"k")
    return Invalidation(sequence, keys, tuple(name.decode() for kind, name in pairs if kind == b"t"))
