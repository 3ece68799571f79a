"""
Retries: how many, and the backoff between them.
"""

from __future__ import annotations

import random
from collections.abc import Collection

import grpc

from modelyard.error_details import Problem, explain

_ATTEMPTS = 8
# In seconds; with jitter 8 to 16 s in total, enough for a service to restart.
_FIRST_DELAY, _LONGEST_DELAY = 0.2, 5.0
# A stream ends when its token expires: by then the token file may hold a new one. (Not TOKEN_MISSING: waiting does not
# help a client without a token.)
_RENEWED = frozenset({"TOKEN_EXPIRED", "TOKEN_INVALID"})
_SHORTEST_TURN, _LONGEST_TURN = 0.005, 0.25


class Attempts:
    """
    Counts the attempts of an operation that can be retried while the service is unavailable.

    Args:
        reasons: further retryable error reasons (`Problem.reason`).
        codes: further retryable status codes.
    """

    def __init__(self, reasons: Collection[str] = (), codes: Collection[grpc.StatusCode] = ()) -> None:
        self._reasons = frozenset(reasons)
        self._codes = {grpc.StatusCode.UNAVAILABLE, *codes}
        self._failed = 0
        self._gained = 0
        self._ended = False  # by an expired token, without progress since

    def delay(self, error: grpc.RpcError, gained: int = 0) -> float:
        """
        Seconds to wait before the next attempt: exponential backoff with jitter, or what the service asks for.

        Args:
            error: the error of the last attempt.
            gained: progress of all attempts, such as bytes; an attempt with progress resets the count.

        Raises:
            grpc.RpcError: *error* itself, if it is not retryable or the attempts are exhausted.
        """
        problem = explain(error)
        helps = problem.code in self._codes or problem.reason in self._reasons or _lost(problem)
        if problem.reason in _RENEWED:
            # Once: when a token is rejected twice in a row, the caller has to renew it.
            helps, self._ended = not self._ended or gained > self._gained, True
        if not helps or not self.another(gained):
            raise error
        return problem.retry_after or self.pause()

    def another(self, gained: int = 0) -> bool:
        """
        Count a failed attempt; returns whether another one is allowed.
        """
        if gained > self._gained:
            self._gained, self._failed = gained, 0
        self._failed += 1
        return self._failed < _ATTEMPTS

    def pause(self) -> float:
        """
        Seconds to wait before the next attempt.
        """
        longest = min(_FIRST_DELAY * 2.0 ** (self._failed - 1), _LONGEST_DELAY)
        return longest * random.uniform(0.5, 1.0)  # noqa: S311 - not a secret


class PollDelays:
    """
    Delays between polls for the end of another transfer: short at first, since files may be small.
    """

    def __init__(self) -> None:
        self._seconds = _SHORTEST_TURN

    def next(self) -> float:
        """
        Seconds to wait before the next attempt.
        """
        seconds, self._seconds = self._seconds, min(2 * self._seconds, _LONGEST_TURN)
        return seconds


def _lost(problem: Problem) -> bool:
    # grpc.aio reports the first instead of the service's status when a message is in flight while the service ends the
    # call. The second is a stream that a proxy reset because its service died.
    said = ("Internal error from Core", "RST_STREAM")
    return problem.code is grpc.StatusCode.INTERNAL and any(each in problem.message for each in said)
