"""
The operations measured on each registry: the same five requests, in each API.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from bench.peers.mlflow import Ask, creations
from bench.population import NAMESPACE, Drawn, words_of

PARENT = f"namespaces/{NAMESPACE}"
PAGE = 20
_CREATIONS = 40_000  # more than a round makes

Request = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Operation:
    """
    One line of the table.

    Args:
        name: of the line.
        method: of ours, Service/Method.
        requests: ours, for round *number*.
        asks: theirs, without end.
        clients: calls in flight.
        share: of the mix.
    """

    name: str
    method: str
    requests: Callable[[int], list[Request]]
    asks: Callable[[], Iterator[Ask]]
    clients: int
    share: float


def operations(models: Sequence[Drawn]) -> list[Operation]:
    """
    The operations on *models*, which both registries have. Shares are those of bench/scenarios' mix, in five parts.
    """
    generator = random.Random(11)
    some = generator.sample(list(models), min(len(models), 1000))
    words = [max(words_of(each.model_id), key=len) for each in some]
    teams = sorted({each.labels["team"] for each in some})

    def ours(requests: list[Request]) -> Callable[[int], list[Request]]:
        return lambda _number: requests

    def theirs(asks: list[Ask]) -> Callable[[], Iterator[Ask]]:
        return lambda: itertools.cycle(asks)

    return [
        Operation(
            "get", "ModelService/GetModel",
            ours([{"name": f"{PARENT}/models/{each.model_id}"} for each in some]),
            theirs([Ask("registered-models/get", {"name": each.model_id}) for each in some]),
            64, 0.55,
        ),
        Operation(
            "search by name", "ModelService/SearchModels",
            ours([{"parent": PARENT, "query": word, "pageSize": PAGE} for word in words]),
            theirs([Ask("registered-models/search", _filter(f"name ILIKE '%{word}%'")) for word in words]),
            16, 0.15,
        ),
        Operation(
            "search by tag", "ModelService/SearchModels",
            ours([{"parent": PARENT, "filter": f"labels.team:{team}", "pageSize": PAGE} for team in teams]),
            theirs([Ask("registered-models/search", _filter(f"tags.team = '{team}'")) for team in teams]),
            16, 0.10,
        ),
        Operation(
            "list versions", "VersionService/ListVersions",
            ours([{"parent": f"{PARENT}/models/{each.model_id}", "pageSize": PAGE} for each in some]),
            theirs([Ask("model-versions/search", _filter(f"name = '{each.model_id}'")) for each in some]),
            16, 0.10,
        ),
        Operation("create", "ModelService/CreateModel", _created, creations, 32, 0.10),
    ]  # fmt: skip


def _filter(text: str) -> Mapping[str, object]:
    return {"filter": text, "max_results": PAGE}


def _created(number: int) -> list[Request]:
    return [
        {
            "parent": PARENT,
            "modelId": f"peer-{number}-{os.getpid()}-{index}",
            "model": {"description": "a model of timm"},
        }
        for index in range(_CREATIONS)
    ]
