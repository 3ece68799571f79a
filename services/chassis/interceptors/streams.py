"""
Streams are open for long: how many there may be, and how long they may stay.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

from services.chassis.access import Identity, Verifier
from services.chassis.access.callers import Bounds, Proxies
from services.chassis.access.policy import bearer
from services.chassis.access.tokens import LEEWAY, expired
from services.chassis.errors import ModelyardError, ResourceExhausted, Unauthenticated
from services.chassis.interceptors.call_context import current_call
from services.chassis.serving.background import Chores
from services.chassis.serving.calls import Kind, Method
from services.chassis.serving.context import Context

# A timer for longer is not worth more than looking again.
_LONGEST_SECONDS = 86400.0
# So many tokens are verified in one turn of the loop: each may cost 0.1 ms.
_AT_ONCE = 20


class StreamInterceptor:
    """
    Refuse streams beyond the bounds, and end those whose token ends, is revoked, or is signed with a key that was
    withdrawn: a stream may stay for as long as its token would be taken.

    Args:
        bounds: how many there may be.
        proxies: who may say on whose behalf they call.
        verifier: of tokens; None where calls need none.
    """

    def __init__(self, bounds: Bounds, proxies: Proxies, verifier: Verifier | None = None) -> None:
        self._bounds = bounds
        self._proxies = proxies
        self._verifier = verifier
        self._open: Counter[str] = Counter()
        self._all = 0
        self._stays: set[_Stay] = set()
        self._chores = Chores("end-streams")
        if verifier is not None:
            verifier.when_revoked(lambda: self._chores.add(self._verify_all()))

    def around(self, method: Method, proceed: Any) -> Any:
        """
        A behaviour of *method*'s kind that calls *proceed*. What is one message each way is left alone.
        """
        if method.kind is Kind.UNARY_UNARY:
            return proceed
        return self._round_answers(proceed) if method.kind.responses_stream else self._round_requests(proceed)

    def _round_answers(self, proceed: Callable[[Any, Context], AsyncGenerator[Any, None]]) -> Any:
        async def call(request: Any, context: Context) -> AsyncIterator[Any]:
            with self._counted(context), self._staying(context) as stay:
                async with aclosing(proceed(request, context)) as answers:
                    while True:
                        try:
                            answer = await stay.wait_for(anext(answers))
                        except StopAsyncIteration:
                            return
                        yield answer
                        # It may have ended while the client was slow to take the answer.
                        stay.check()

        return call

    def _round_requests(self, proceed: Callable[[Any, Context], Any]) -> Any:
        async def call(requests: Any, context: Context) -> Any:
            with self._counted(context), self._staying(context) as stay:
                return await stay.wait_for(proceed(requests, context))

        return call

    @contextmanager
    def _counted(self, context: Context) -> Iterator[None]:
        bounds, client = self._bounds, self._client(context)
        if bounds.most and self._all >= bounds.most:
            raise _too_many(f"{bounds.most} streams are open here", "MODELYARD_STREAMS_MOST", bounds.most)
        if bounds.per_client and self._open[client] >= bounds.per_client:
            text = f"this client has {bounds.per_client} streams open here"
            raise _too_many(text, "MODELYARD_STREAMS_PER_CLIENT", bounds.per_client)
        self._all += 1
        self._open[client] += 1
        try:
            yield
        finally:
            self._all -= 1
            self._open[client] -= 1
            if not self._open[client]:
                del self._open[client]

    def _client(self, context: Context) -> str:
        call = current_call()
        known = call.identity if call is not None else None
        return known.subject if known is not None and known.subject else self._proxies.client(context)

    @contextmanager
    def _staying(self, context: Context) -> Iterator[_Stay]:
        token, known = self._token(context)
        if known is None:
            yield _Stay("", float("inf"))
            return
        stay = _Stay(token, known.expires + LEEWAY)
        self._stays.add(stay)
        try:
            stay.begin()
            yield stay
        finally:
            stay.leave()
            self._stays.discard(stay)

    def _token(self, context: Context) -> tuple[str, Identity | None]:
        """
        The token that a call came with, and what it says; None without a good one, where none is needed.
        """
        if self._verifier is None:
            return "", None
        try:
            token = bearer(context)
            return (token, self._verifier.verify(token)) if token is not None else ("", None)
        except ModelyardError:
            return "", None

    async def _verify_all(self) -> None:
        """
        Tokens may have been revoked: end the streams that were accepted with one that is not valid any more.
        """
        for number, stay in enumerate(list(self._stays)):
            if number % _AT_ONCE == 0:
                await asyncio.sleep(0)
            try:
                if self._verifier is not None and stay in self._stays:
                    self._verifier.recheck(stay.token)
            except Unauthenticated as error:
                stay.end(error)
            except ModelyardError:
                # The keys are not there: that is no fault of a token.
                continue


class _Stay:
    """
    How long one stream may stay.

    Its task is cancelled only while the handler is waited for: in between, the host is sending an answer, and what
    would become of a cancellation there is the host's affair.

    Args:
        token: that it was accepted with.
        until: when the token expires, in seconds since 1970.
    """

    __slots__ = ("_error", "_task", "_timer", "_until", "_waits", "token")

    def __init__(self, token: str, until: float) -> None:
        self.token = token
        self._until = until
        self._error: ModelyardError | None = None
        self._task: asyncio.Task[Any] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._waits = False

    def begin(self) -> None:
        """
        Start the clock.
        """
        self._task = asyncio.current_task()
        self._look()

    def leave(self) -> None:
        """
        The stream has ended.
        """
        if self._timer is not None:
            self._timer.cancel()

    def end(self, error: ModelyardError) -> None:
        """
        It may stay no longer.
        """
        if self._error is None:
            self._error = error
            if self._waits and self._task is not None:
                self._task.cancel()

    def check(self) -> None:
        """
        Raises:
            ModelyardError: it may stay no longer.
        """
        if self._error is not None:
            raise self._error

    async def wait_for(self, work: Any) -> Any:
        """
        What *work* returns.

        Raises:
            ModelyardError: it may stay no longer.
        """
        self._waits = True
        try:
            return await work
        except asyncio.CancelledError:
            if self._error is None or self._task is None:
                raise
            self._task.uncancel()
            raise self._error from None
        finally:
            self._waits = False

    def _look(self) -> None:
        left = self._until - time.time()
        if left <= 0:
            self.end(expired())
        else:
            self._timer = asyncio.get_running_loop().call_later(min(left, _LONGEST_SECONDS), self._look)


def _too_many(text: str, setting: str, limit: int) -> ResourceExhausted:
    return ResourceExhausted(
        "STREAMS_OPEN",
        f"{text}, which is the most ({setting}): close some, or come back later",
        retry_after=1.0,
        metadata={"setting": setting, "limit": str(limit)},
    )
