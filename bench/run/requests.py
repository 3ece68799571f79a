"""
The requests of the scenarios: names from the registry that is asked, drawn Zipf-like.
"""

from __future__ import annotations

import json
import random
import time
from bisect import bisect
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc
from google.protobuf.field_mask_pb2 import FieldMask

import modelyard
from bench.population import words_of
from modelyard.registry.v1 import cards_pb2, deployments_pb2, models_pb2

PARENT = "namespaces/default"
_NAMES = 5000
_FEW = 200
_PAGE = 20
#: Of one file for ghz, which starts over when it is through.
_DRAWN = 2000

Request = Mapping[str, object]


class Requests:
    """
    Makes requests.

    Args:
        yard: the registry that is asked.
    """

    def __init__(self, yard: modelyard.Client) -> None:
        self._dice = random.Random(13)
        self._run = f"{time.time_ns():x}"
        self._made = 0
        models = _models(yard)
        if not models:
            raise SystemExit(
                f"there are no models in {PARENT}: run `make demo`, or let the bench start a suite of its own"
            )
        self._models = models
        self._names = [model.name for model in models]
        self._shares = list(accumulate(1 / (place + 1) for place in range(len(models))))
        self._pages = [self._names[first : first + _PAGE] for first in range(0, 50 * _PAGE, _PAGE)]
        self._pages = [page for page in self._pages if page]
        self._cards = _cards(yard, self._names)
        self._deployments = _deployments(yard)
        self._assets = _assets(yard)

    def of(self, kind: str, count: int) -> list[Request]:
        """
        Requests of one kind.

        Args:
            kind: the name of one of the methods below.
            count: how many will be sent, for those of which each has to be another.
        """
        make: Callable[[], Request] = getattr(self, f"_{kind}")
        return [make() for _ in range(count if kind == "create" else min(count, _DRAWN))]

    def distinct(self, kind: str) -> list[Request]:
        """
        Requests of one kind, each once, to warm the cache up: every model for those that ask for one.
        """
        if kind in ("get", "evaluations"):
            return [{"name": name} if kind == "get" else {"parent": name, "pageSize": 50} for name in self._names]
        found = {json.dumps(each, sort_keys=True): each for each in self.of(kind, _DRAWN)}
        return list(found.values())

    def _zipf(self) -> int:
        return bisect(self._shares, self._dice.random() * self._shares[-1])

    def _one(self) -> models_pb2.Model:
        return self._models[min(self._zipf(), len(self._models) - 1)]

    def _get(self) -> Request:
        return {"name": self._one().name}

    def _batch_get(self) -> Request:
        # As pages of a dashboard are: not any twenty.
        return {"parent": PARENT, "names": self._dice.choice(self._pages)}

    def _search_words(self) -> Request:
        words = words_of(self._one().name.rpartition("/")[2])
        asked = self._dice.sample(words, min(len(words), self._dice.choice((1, 1, 2, 3))))
        return {"parent": PARENT, "query": " ".join(asked), "pageSize": _PAGE}

    def _search_filters(self) -> Request:
        model = self._one()
        parts = [f'task = "{model.task}"', f"parameter_count < {model.parameter_count + 1}"]
        if "team" in model.labels:
            parts.append(f"labels.team:{model.labels['team']}")
        chosen = self._dice.sample(parts, self._dice.choice((1, 2)))
        return {"parent": PARENT, "filter": " AND ".join(chosen), "pageSize": _PAGE}

    def _create(self) -> Request:
        self._made += 1
        model = self._one()
        return {
            "parent": PARENT,
            "modelId": f"bench-{self._run}-{self._made}",
            "model": {"description": model.description, "task": model.task, "labels": dict(model.labels)},
        }

    def _evaluations(self) -> Request:
        return {"parent": self._one().name, "pageSize": 50}

    def _leaderboard(self) -> Request:
        dataset = self._dice.choice(("imagenet", "imagenet-real", "imagenet-a", "imagenet-r"))
        return {"parent": PARENT, "dataset": dataset, "metric": self._dice.choice(("top1", "top5")), "pageSize": _PAGE}

    def _health(self) -> Request:
        return {"service": "modelyard.registry.v1.ModelService"}

    def _audit(self) -> Request:
        return {"resourcePrefix": self._one().name, "pageSize": _PAGE}

    def _card(self) -> Request:
        return {"name": self._dice.choice(self._cards)}

    def _deployment(self) -> Request:
        return {"name": self._dice.choice(self._deployments)}

    def _asset(self) -> Request:
        return {"name": self._dice.choice(self._assets)}


def _models(yard: modelyard.Client) -> list[models_pb2.Model]:
    found: list[models_pb2.Model] = []
    request = models_pb2.ListModelsRequest(parent=PARENT, page_size=1000)
    while len(found) < _NAMES:
        page = yard.models.ListModels(request)
        found += page.models
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    random.Random(3).shuffle(found)
    return found


def _cards(yard: modelyard.Client, names: Sequence[str]) -> list[str]:
    found: list[str] = []
    for name in names[: 2 * _FEW]:
        try:
            found.append(yard.cards.GetCard(cards_pb2.GetCardRequest(name=f"{name}/card")).name)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
        if len(found) >= 50:
            return found
    for name in names[: 50 - len(found)]:
        card = cards_pb2.Card(name=f"{name}/card", intended_use="to be read in a bench", markdown="# A card\n")
        found.append(
            yard.cards.UpdateCard(cards_pb2.UpdateCardRequest(card=card, update_mask=FieldMask(paths=["*"]))).name
        )
    return found


def _deployments(yard: modelyard.Client) -> list[str]:
    request = deployments_pb2.ListDeploymentsRequest(parent=PARENT, page_size=_FEW)
    found = [each.name for each in yard.deployments.ListDeployments(request).deployments]
    if not found:
        raise SystemExit(f"there are no deployments in {PARENT}: leave SCENARIO=deployment out, or make one")
    return found


def _assets(yard: modelyard.Client) -> list[str]:
    found = []
    with TemporaryDirectory() as scratch:
        file = Path(scratch) / "asset"
        for number in range(20):
            file.write_text(f"an asset of a bench, number {number}")
            found.append(yard.upload_file(file).name)
    return found
