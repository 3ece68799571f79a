"""
What an origin answered at each of its revisions, told by itself, and what may be answered by it.

Between two writes, while nobody writes, every question is put to an origin of our own that nothing is done to. What is
answered then is true from that write to the next. Nothing of the cache's own judgement is in it, nor of the tags that
a write touches: an answer is right or wrong by its bytes.
"""

from __future__ import annotations

import asyncio
import bisect
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import grpc

from tests.drills.coherence.queries import Question, Said


@dataclass(frozen=True)
class Point:
    """
    A moment at which nobody wrote.

    Args:
        revision: the newest one.
        acknowledged: when the last write before it was.
    """

    revision: int
    acknowledged: float


@dataclass(frozen=True)
class Answered:
    """
    An answer that is to be judged.

    Args:
        minimum: the `x-min-revision` that was sent; 0 for none.
        began, ended: when.
        who: of which cache.
    """

    question: Question
    said: Said
    minimum: int
    began: float
    ended: float
    who: str


@dataclass
class Seen:
    """
    What was judged.

    Args:
        answers: by `x-cache`.
        paths: by RPC.
        minimums: how many had one, and how many were judged by the bound.
        staleness: in seconds, of the answers that are not marked and had no minimum.
        unsure: answers at a revision between two points at which something else was said.
        wrong: what must not be.
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
    One origin's.

    Args:
        questions: that are put to it.
        bound: how stale an answer may be that is not marked, in seconds.
        seen: where to note what was judged.

    Attributes:
        known: the newest revision of which a write has told: whoever asks for it must not get an older answer.
        points: the moments so far.
    """

    def __init__(self, questions: Sequence[Question], bound: float, seen: Seen) -> None:
        self.questions = questions
        self.known = 0
        self.points: list[Point] = []
        self._bound = bound
        self._seen = seen
        # By question: the numbers of the points since which something else is said, and that.
        self._said: dict[Question, tuple[list[int], list[bytes]]] = {question: ([], []) for question in questions}
        self._waiting: list[Answered] = []
        self._often: Sequence[Question] = questions

    async def look(self, channel: grpc.aio.Channel, acknowledged: float) -> None:
        """
        Put all questions, while nobody writes.

        Args:
            acknowledged: when the last write was.
        """
        asked = [question.ask(channel, 20, x_min_revision=str(self.known)) for question in self.questions]
        answers = await asyncio.gather(*asked)
        revisions = {said.revision for said in answers}
        if len(revisions) > 1:
            # Something of the origin's own came in between, such as a chore.
            await self.look(channel, acknowledged)
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
        self._judge_those_that_can_be()

    def often(self, count: int) -> Sequence[Question]:
        """
        The questions that had most answers so far.
        """
        return self._often[:count]

    def add(self, answered: Answered) -> None:
        """
        Judge an answer, once it is known what was said meanwhile.
        """
        self._waiting.append(answered)

    @property
    def waiting(self) -> int:
        """
        How many answers are not judged yet.
        """
        return len(self._waiting)

    def _judge_those_that_can_be(self) -> None:
        last = self.points[-1]
        later = []
        for answered in self._waiting:
            if max(answered.said.revision, answered.minimum) <= last.revision and answered.ended <= last.acknowledged:
                self._judge(answered)
            else:
                later.append(answered)
        self._waiting = later

    def _judge(self, answered: Answered) -> None:
        seen, said = self._seen, answered.said
        seen.answers[said.how] += 1
        seen.paths[answered.question.path] += 1
        if said.revision >= 0 and not self._was_said(answered):
            self._wrong(answered, f"was not said at {said.revision}")
        if answered.minimum:
            seen.minimums += 1
            if not self._said_since(answered, self._before(answered.minimum)):
                self._wrong(answered, f"is from before {answered.minimum}, which was asked for")
        if said.how != "stale":
            seen.bounded += 1
            if not self._said_since(answered, self._acknowledged_before(answered.began - self._bound)):
                self._wrong(answered, f"is staler than {self._bound} s")
            elif not answered.minimum:
                seen.staleness.append(self._staleness(answered))

    def _was_said(self, answered: Answered) -> bool:
        """
        Whether it was said at the revision that it bears.
        """
        question, said = answered.question, answered.said
        number = self._before(said.revision)
        if self._at(question, number) == said.text:
            return True
        if self.points[number].revision == said.revision:
            return False
        # Of several writes at once: what was between them nobody has asked.
        self._seen.unsure += self._at(question, number + 1) != said.text
        return True

    def _said_since(self, answered: Answered, number: int) -> bool:
        """
        Whether it was said at a point or later. What it was at the revision that it bears is another matter.
        """
        if answered.said.revision >= self.points[number].revision:
            return True
        numbers, texts = self._said[answered.question]
        return answered.said.text in texts[max(bisect.bisect_right(numbers, number) - 1, 0) :]

    def _staleness(self, answered: Answered) -> float:
        """
        How long before its read began an answer was replaced; 0 for what was still said.
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
        The last point that is not after a revision.
        """
        return max(bisect.bisect_right(self.points, revision, key=lambda point: point.revision) - 1, 0)

    def _acknowledged_before(self, moment: float) -> int:
        return max(bisect.bisect_left(self.points, moment, key=lambda point: point.acknowledged) - 1, 0)

    def _wrong(self, answered: Answered, what: str) -> None:
        said = answered.said
        self._seen.wrong.append(
            f"{answered.who}: {answered.question}: {said.text[:200]!r} {what} ({said.how} at {said.revision}, "
            f"after {answered.ended - answered.began:.2f} s)"
        )
