"""
The history of an origin's responses, and the check of cached responses against it.

Between writes, while no write is in progress, every query is sent directly to an origin into which no fault is
injected. Its responses are valid from the write before until the next one. The check does not depend on the cache's
logic or on the tags that a write touches: it compares bytes.
"""

from __future__ import annotations

import asyncio
import bisect
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import grpc

from tests.drills.coherence.queries import Answer, Question


@dataclass(frozen=True)
class Point:
    """
    An observation of the origin while no write was in progress.

    Args:
        revision: the origin's revision.
        acknowledged: when the last write before it was acknowledged.
    """

    revision: int
    acknowledged: float


@dataclass(frozen=True)
class Answered:
    """
    A cached response that is to be checked.

    Args:
        minimum: the `x-min-revision` that was sent; 0 for none.
        began, ended: times of the call.
        cache: the name of the cache.
    """

    question: Question
    said: Answer
    minimum: int
    began: float
    ended: float
    cache: str


@dataclass
class Seen:
    """
    Results of the checks.

    Args:
        answers: checked responses, by `x-cache`.
        paths: the same by RPC.
        minimums: responses checked against `x-min-revision`.
        bounded: responses checked against the staleness bound.
        staleness: of responses without a minimum that are not marked stale, in seconds.
        unsure: responses at a revision between two observations, both of which differ.
        wrong: violations.
    """

    answers: Counter[str] = field(default_factory=Counter)
    paths: Counter[str] = field(default_factory=Counter)
    minimums: int = 0
    bounded: int = 0
    staleness: list[float] = field(default_factory=list)
    unsure: int = 0
    wrong: list[str] = field(default_factory=list)


class History:
    """
    The history of one origin.

    Args:
        questions: the queries.
        bound: the staleness bound in seconds, for responses that are not marked stale.
        seen: collects the results.

    Attributes:
        known: the newest acknowledged revision: a read with it as `x-min-revision` must not get an older response.
        points: the observations so far.
    """

    def __init__(self, questions: Sequence[Question], bound: float, seen: Seen) -> None:
        self.questions = questions
        self.known = 0
        self.points: list[Point] = []
        self._bound = bound
        self._seen = seen
        # By query: the numbers of the observations at which the response changed, and the responses.
        self._said: dict[Question, tuple[list[int], list[bytes]]] = {question: ([], []) for question in questions}
        self._waiting: list[Answered] = []
        self._often: Sequence[Question] = questions

    async def observe(self, channel: grpc.aio.Channel, acknowledged: float) -> None:
        """
        Send all queries while no write is in progress.

        Args:
            acknowledged: when the last write was acknowledged.
        """
        asked = [question.ask(channel, 20, x_min_revision=str(self.known)) for question in self.questions]
        answers = await asyncio.gather(*asked)
        revisions = {said.revision for said in answers}
        if len(revisions) > 1:
            # A background task of the origin has written in between.
            await self.observe(channel, acknowledged)
            return
        self.known = max(self.known, *revisions)
        number = len(self.points)
        self.points.append(Point(revisions.pop(), acknowledged))
        for question, said in zip(self.questions, answers, strict=True):
            numbers, texts = self._said[question]
            if not texts or texts[-1] != said.text:
                numbers.append(number)
                texts.append(said.text)
        self._often = sorted(self.questions, key=lambda question: -len(self._said[question][0]))
        self._check_complete()

    def often(self, count: int) -> Sequence[Question]:
        """
        The queries whose responses have changed most often so far.
        """
        return self._often[:count]

    def add(self, answered: Answered) -> None:
        """
        Check a response, as soon as the origin has been observed after it.
        """
        self._waiting.append(answered)

    @property
    def waiting(self) -> int:
        """
        The number of responses that are not checked yet.
        """
        return len(self._waiting)

    def _check_complete(self) -> None:
        last = self.points[-1]
        later = []
        for answered in self._waiting:
            if max(answered.said.revision, answered.minimum) <= last.revision and answered.ended <= last.acknowledged:
                self._check(answered)
            else:
                later.append(answered)
        self._waiting = later

    def _check(self, answered: Answered) -> None:
        seen, said = self._seen, answered.said
        seen.answers[said.how] += 1
        seen.paths[answered.question.path] += 1
        if said.revision >= 0 and not self._is_right(answered):
            self._wrong(answered, f"is not the response at {said.revision}")
        if answered.minimum:
            seen.minimums += 1
            if not self._current_since(answered, self._before(answered.minimum)):
                self._wrong(answered, f"is from before the requested revision {answered.minimum}")
        if said.how != "stale":
            seen.bounded += 1
            if not self._current_since(answered, self._acknowledged_before(answered.began - self._bound)):
                self._wrong(answered, f"is staler than {self._bound} s")
            elif not answered.minimum:
                seen.staleness.append(self._staleness(answered))

    def _is_right(self, answered: Answered) -> bool:
        """
        Whether the origin's response at the stated revision was the same.
        """
        question, said = answered.question, answered.said
        number = self._before(said.revision)
        if self._at(question, number) == said.text:
            return True
        if self.points[number].revision == said.revision:
            return False
        # Between concurrent writes the origin was not observed.
        self._seen.unsure += self._at(question, number + 1) != said.text
        return True

    def _current_since(self, answered: Answered, number: int) -> bool:
        """
        Whether the origin's response was the same at an observation or later, or the stated revision is not older.
        """
        if answered.said.revision >= self.points[number].revision:
            return True
        numbers, texts = self._said[answered.question]
        return answered.said.text in texts[max(bisect.bisect_right(numbers, number) - 1, 0) :]

    def _staleness(self, answered: Answered) -> float:
        """
        How long before the read began the response was replaced; 0 if it was still current.
        """
        numbers, texts = self._said[answered.question]
        for place in range(len(texts) - 1, -1, -1):
            if texts[place] == answered.said.text:
                if place + 1 == len(texts):
                    return 0.0
                return max(0.0, answered.began - self.points[numbers[place + 1]].acknowledged)
        return 0.0

    def _at(self, question: Question, number: int) -> bytes:
        numbers, texts = self._said[question]
        return texts[bisect.bisect_right(numbers, number) - 1]

    def _before(self, revision: int) -> int:
        """
        The number of the last observation that is not after a revision.
        """
        return max(bisect.bisect_right(self.points, revision, key=lambda point: point.revision) - 1, 0)

    def _acknowledged_before(self, moment: float) -> int:
        return max(bisect.bisect_left(self.points, moment, key=lambda point: point.acknowledged) - 1, 0)

    def _wrong(self, answered: Answered, what: str) -> None:
        said = answered.said
        self._seen.wrong.append(
            f"{answered.cache}: {answered.question}: {said.text[:200]!r} {what} ({said.how} at {said.revision}, "
            f"after {answered.ended - answered.began:.2f} s)"
        )
