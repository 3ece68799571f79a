"""
Retries: how many, and the backoff between them.
"""

from __future__ import annotations

import random
from collections.abc import Collection

import grpc

from modelyard.error_details import Problem, explain

_ATTEMPTS = 8
# In seconds; with the jitter they come to 8 to 16 s in all, in which a service has started again.
_FIRST_DELAY, _LONGEST_DELAY = 0.2, 5.0
# A stream ends with its token: by then the file that the token comes from may hold a new one. (TOKEN_MISSING is not
# here: whoever has none gets none by waiting.)
_RENEWED = frozenset({"TOKEN_EXPIRED", "TOKEN_INVALID"})
_SHORTEST_TURN, _LONGEST_TURN = 0.005, 0.25


class Attempts:
    """
    Counts attempts at something that may be done again, as long as the service is just not available.

    Args:
        reasons: of errors (`Problem.reason`) after which another attempt helps, too.
        codes: of such errors.
    """

    def __init__(self, reasons: Collection[str] = (), codes: Collection[grpc.StatusCode] = ()) -> None:
        self._reasons = frozenset(reasons)
        self._codes = {grpc.StatusCode.UNAVAILABLE, *codes}
        self._failed = 0
        self._gained = 0
        self._ended = False  # with its token, and has not got on since

    def delay(self, error: grpc.RpcError, gained: int = 0) -> float:
        """
        Seconds to wait before the next attempt: twice as long each time, and never the same for all clients.

        Args:
            error: what ended the last one.
            gained: how far all of them came, in whatever unit; those that got on do not count.

        Raises:
            grpc.RpcError: *error* itself, when another attempt cannot help or there were enough.
        """
        problem = explain(error)
        helps = problem.code in self._codes or problem.reason in self._reasons or _lost(problem)
        if problem.reason in _RENEWED:
            # Once: a token that is not taken twice in a row is the caller's to renew.
            helps, self._ended = not self._ended or gained > self._gained, True
        if not helps or not self.another(gained):
            raise error
        return problem.retry_after or self.pause()

    def another(self, gained: int = 0) -> bool:
        """
        Count an attempt that did not reach the end; returns whether there may be one more.
        """
        if gained > self._gained:
            self._gained, self._failed = gained, 0
        self._failed += 1
        return self._failed < _ATTEMPTS

    def pause(self) -> float:
        """
        Seconds to wait now.
        """
        longest = min(_FIRST_DELAY * 2.0 ** (self._failed - 1), _LONGEST_DELAY)
        return longest * random.uniform(0.5, 1.0)  # noqa: S311 - not a secret


class PollDelays:
    """
    How long to wait before it is asked again whether somebody else is done: soon at first, since files may be small.
    """

    def __init__(self) -> None:
        self._seconds = _SHORTEST_TURN

    def next(self) -> float:
        """
        Seconds to wait now.
        """
        seconds, self._seconds = self._seconds, min(2 * self._seconds, _LONGEST_TURN)
        return seconds


def _lost(problem: Problem) -> bool:
    # grpc.aio says the first, and not what the service said, when a message is on its way while the service ends the
    # call. A proxy resets a stream whose service has died in the middle, and gRPC makes the second of that.
    said = ("Internal error from Core", "RST_STREAM")
    return problem.code is grpc.StatusCode.INTERNAL and any(each in problem.message for each in said)
