"""
An in-memory registry that records its answers at each of its revisions.

Neither this nor the check of the answers uses validation logic of the cache: dependencies follow from comparing
answers.
"""

from __future__ import annotations

import asyncio
import bisect
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from google.protobuf.message import Message

from modelyard.registry.v1 import models_pb2, namespaces_pb2

NAMESPACE = "namespaces/n"
MODELS = tuple(f"{NAMESPACE}/models/{name}" for name in "abc")
_SERVICE = "/modelyard.registry.v1."

State = dict[str, str]


@dataclass(frozen=True)
class Question:
    """
    A read.

    Args:
        path: of the RPC.
        request: serialised.
        answer: the registry's answer in a state; None for NOT_FOUND.
    """

    path: str
    request: bytes
    answer: Callable[[State], str | None]


def _question(path: str, request: Message, answer: Callable[[State], str | None]) -> Question:
    return Question(_SERVICE + path, request.SerializeToString(), answer)


def _model(name: str) -> Question:
    def answer(state: State) -> str | None:
        return f"{state[name]} {state[NAMESPACE]}" if name in state else None

    return _question("ModelService/GetModel", models_pb2.GetModelRequest(name=name), answer)


def _several(names: tuple[str, ...]) -> Callable[[State], str]:
    def answer(state: State) -> str:
        return repr([(name, state.get(name)) for name in names]) + state[NAMESPACE]

    return answer


QUESTIONS = (
    *map(_model, MODELS),
    _question(
        "ModelService/BatchGetModels",
        models_pb2.BatchGetModelsRequest(parent=NAMESPACE, names=MODELS),
        _several(MODELS),
    ),
    _question(
        "ModelService/BatchGetModels",
        models_pb2.BatchGetModelsRequest(parent=NAMESPACE, names=MODELS[1:]),
        _several(MODELS[1:]),
    ),
    _question("ModelService/ListModels", models_pb2.ListModelsRequest(parent=NAMESPACE), _several(MODELS)),
    _question("ModelService/SearchModels", models_pb2.SearchModelsRequest(parent=NAMESPACE), _several(MODELS)),
    _question(
        "NamespaceService/GetNamespace",
        namespaces_pb2.GetNamespaceRequest(name=NAMESPACE),
        lambda state: state[NAMESPACE],
    ),
)


@dataclass
class Registry:
    """
    Its current state and its history.

    Args:
        dice: the random choices of the schedule.
    """

    dice: random.Random
    revision: int = 1
    away: bool = False
    state: State = field(default_factory=lambda: {NAMESPACE: "0", **dict.fromkeys(MODELS, "0")})
    committed: list[float] = field(default_factory=lambda: [0.0, time.monotonic()])
    changes: list[list[tuple[str, bool]]] = field(default_factory=lambda: [[], []])
    answers: dict[Question, tuple[list[int], list[str | None]]] = field(default_factory=dict)
    #: The oldest revision in the log of changes.
    oldest: int = 1
    news: asyncio.Event = field(default_factory=asyncio.Event)
    choices: int = 0
    _hashes: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """
        Record the initial answers.
        """
        for question in QUESTIONS:
            self.answers[question] = ([1], [question.answer(self.state)])

    def write(self) -> int:
        """
        Commit a random change, and return its revision.
        """
        revision, value = self.revision + 1, str(self.revision + 1)
        name = self.dice.choice(MODELS)
        changed: list[tuple[str, bool]]
        match self.dice.randrange(8):
            case 0:
                # Created, or deleted with all that is below.
                changed = [(name, True)]
                if self.state.pop(name, None) is None:
                    self.state[name] = value
            case 1:
                # Imported: many changes in one revision.
                changed = [(each, False) for each in self.dice.sample(MODELS, len(MODELS))]
                self.state.update(dict.fromkeys(MODELS, value))
            case 2:
                # A change of the whole subtree, which names nothing in it.
                changed = [(NAMESPACE, True)]
                self.state[NAMESPACE] = value
            case _:
                changed = [(name, False)]
                self.state[name] = value
        self.revision = revision
        self.committed.append(time.monotonic())
        self.changes.append(changed)
        for question, (revisions, said) in self.answers.items():
            answer = question.answer(self.state)
            if answer != said[-1]:
                revisions.append(revision)
                said.append(answer)
        self.news.set()
        self.news = asyncio.Event()
        return revision

    def at(self, question: Question, revision: int) -> str | None:
        """
        The answer at a revision.
        """
        revisions, said = self.answers[question]
        return said[bisect.bisect_right(revisions, revision) - 1]

    def known_before(self, moment: float) -> int:
        """
        The newest revision committed before a moment.
        """
        return max(bisect.bisect_left(self.committed, moment) - 1, 1)

    def said_since(self, question: Question, revision: int) -> list[str | None]:
        """
        The answers at a revision and later.
        """
        revisions, said = self.answers[question]
        return said[bisect.bisect_right(revisions, revision) - 1 :]

    def hashed(self, name: str) -> int:
        """
        A hash that follows from the seed: Python's differs between processes.
        """
        if name not in self._hashes:
            self._hashes[name] = self.dice.getrandbits(62)
        return self._hashes[name]

    async def passing(self, longest: float = 8.0) -> None:
        """
        A delay in transit: mostly short, occasionally much longer than the staleness bound.
        """
        self.choices += 1
        luck = self.dice.random()
        if luck < 0.3:
            await asyncio.sleep(0)
        elif luck < 0.9:
            await asyncio.sleep(self.dice.random() * 0.02)
        elif luck < 0.985:
            await asyncio.sleep(self.dice.random())
        else:
            await asyncio.sleep(self.dice.random() * longest)
