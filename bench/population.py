"""
A registry of any size whose names, labels, parameter counts and results are drawn from the timm leaderboard, and whose
descriptions have words of a large vocabulary, too (prose.py): what the registry's benches and tests of plans run on.

Rows are made here and copied in (COPY); the database computes the word indexes with the registry's own functions. The
same size gives the same rows.
"""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg

from bench.prose import prose
from examples import timm

#: Changes when the same size no longer gives the same rows.
EDITION = "2"
NAMESPACE = "default"
VERSIONS = 3
RESULTS = 10
# Words of a description's text.
TEXT = 24
TEAMS = (
    "vision", "edge", "robotics", "search", "ads", "maps", "retail", "health", "satellite", "documents", "video",
    "speech", "games", "security", "research", "platform",
)  # fmt: skip
TASKS = {"image-classification": 80, "feature-extraction": 8, "segmentation": 6, "detection": 4, "retrieval": 2}
_BEGINNING = datetime(2024, 1, 1, tzinfo=UTC)
_BATCH = 20_000

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Drawn:
    """
    One model of the population.
    """

    number: int
    model_id: str
    display_name: str
    description: str
    task: str
    labels: dict[str, str]
    parameter_count: int
    results: tuple[tuple[str, str, float], ...]


def draw(count: int, seed: int = 7) -> Iterator[Drawn]:
    """
    *count* models. Architecture, training and results are drawn independently, each as often as in timm.
    """
    generator, writer = random.Random(seed), random.Random(seed + 1)
    entries = list(timm.entries())
    measured: dict[str, list[tuple[str, str, float]]] = {}
    for result in timm.results():
        measured.setdefault(result.model, []).append((result.dataset, result.metric, result.value))
    used: dict[str, int] = {}
    for number in range(1, count + 1):
        shape, training = generator.choice(entries), generator.choice(entries)
        team = generator.choice(TEAMS)
        base = f"{shape.architecture}.{training.pretrain_tag}-{team}"[:110]
        used[base] = used.get(base, 0) + 1
        words = f"{shape.architecture} {training.pretrain_tag}".replace("_", " ")
        labels = {
            "source": "timm",
            "architecture": shape.architecture,
            "pretrain_tag": training.pretrain_tag,
            "team": team,
        }
        if shape.pretrain:
            labels["pretrain"] = shape.pretrain
        scores = measured[generator.choice(entries).model]
        yield Drawn(
            number,
            f"{base}-{used[base]}",
            f"{words} for {team}",
            f"{words}: a model of timm, measured on ImageNet at {shape.img_size} pixels, adapted by the {team} team. "
            f"{prose(writer, TEXT)}",
            generator.choices(list(TASKS), list(TASKS.values()))[0],
            labels,
            int(shape.parameter_count * generator.uniform(0.9, 1.1)),
            tuple((d, m, round(v + generator.uniform(-2, 2), 3)) for d, m, v in scores[:RESULTS]),
        )


async def populate(url: str, count: int, say: Say) -> None:
    """
    Fill a migrated, empty database. Its owner has to be asked: triggers are off meanwhile.

    Args:
        url: of the database, as its owner.
        count: how many models.
        say: is told how far it is.
    """
    connection = await asyncpg.connect(url)
    began = time.monotonic()
    try:
        await connection.execute("SET session_replication_role = replica; SET maintenance_work_mem = '1GB'")
        indexes = await connection.fetch(_INDEXES)
        for index in indexes:
            await connection.execute(f"DROP INDEX {index['name']}")
        await connection.execute(_STAGING)
        for first, batch in _batches(draw(count)):
            await _copy(connection, batch)
            say(f"{min(first + _BATCH, count):>9,} of {count:,} models copied, {time.monotonic() - began:,.0f} s")
        for name, sql in _FINISH:
            await connection.execute(sql)
            say(f"{name}, {time.monotonic() - began:,.0f} s")
        for index in indexes:
            await connection.execute(index["definition"])
            say(f"index {index['name']}, {time.monotonic() - began:,.0f} s")
        await connection.execute("VACUUM (ANALYZE)")
        await connection.execute("CHECKPOINT")
        say(f"analyzed, {time.monotonic() - began:,.0f} s")
    finally:
        await connection.close()


def _batches(drawn: Iterable[Drawn]) -> Iterator[tuple[int, list[Drawn]]]:
    batch: list[Drawn] = []
    for each in drawn:
        batch.append(each)
        if len(batch) == _BATCH:
            yield batch[0].number - 1, batch
            batch = []
    if batch:
        yield batch[0].number - 1, batch


async def _copy(connection: asyncpg.Connection[Any], batch: list[Drawn]) -> None:
    await connection.copy_records_to_table("drawn_models", records=[_model(each) for each in batch])
    await connection.copy_records_to_table(
        "versions", columns=_VERSION, records=[row for each in batch for row in _versions(each)]
    )
    await connection.copy_records_to_table(
        "evaluations", columns=_EVALUATION, records=[row for each in batch for row in _results(each)]
    )


def _model(each: Drawn) -> tuple[Any, ...]:
    labels = json.dumps(each.labels)
    octets = 200 + len(each.display_name) + len(each.description) + len(labels)
    return (
        each.number, each.model_id, each.display_name, each.description, each.task, labels, each.parameter_count,
        _time(each), octets,
    )  # fmt: skip


_VERSION = (
    "model", "number", "state", "description", "artifacts", "parent_version", "training_data", "run", "git_commit",
    "stage", "labels", "size_bytes", "create_time", "update_time", "revision", "octets",
)  # fmt: skip


def _versions(each: Drawn) -> Iterator[tuple[Any, ...]]:
    moment = _time(each)
    for number in range(1, VERSIONS + 1):
        artifact = json.dumps([["model.safetensors", f"{each.number * 4 + number:064x}", 4 * each.parameter_count, ""]])
        yield (
            each.number, number, "READY", "", artifact, "", [], f"run-{each.number}", "", "", "{}",
            4 * each.parameter_count, moment, moment, each.number + 1, 320,
        )  # fmt: skip


_EVALUATION = (
    "namespace_id", "model", "version", "dataset", "metric", "value", "parameters", "evaluate_time", "create_time",
    "revision", "octets",
)  # fmt: skip


def _results(each: Drawn) -> Iterator[tuple[Any, ...]]:
    moment = _time(each)
    for place, (dataset, metric, value) in enumerate(each.results):
        version = 1 + place % VERSIONS
        yield NAMESPACE, each.number, version, dataset, metric, value, "{}", moment, moment, each.number + 1, 514


def _time(each: Drawn) -> datetime:
    return _BEGINNING + timedelta(seconds=20 * each.number)


# Every index but those of primary keys and unique constraints: they are built faster afterwards. PostgreSQL writes
# that of a partitioned table down without its partitions (ON ONLY).
_INDEXES = """
SELECT indexrelid::regclass::text AS name, replace(pg_get_indexdef(indexrelid), ' ON ONLY ', ' ON ') AS definition
  FROM pg_index
 WHERE indrelid::regclass::text IN ('models', 'versions', 'evaluations', 'audit', 'vocabulary', 'deployments')
   AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid)
"""

_STAGING = """
CREATE UNLOGGED TABLE drawn_models (
    id bigint, model_id text, display_name text, description text, task text, labels text, parameter_count bigint,
    create_time timestamptz, octets integer
)
"""

_FINISH = (
    (
        "models indexed",
        """
INSERT INTO models (id, namespace_id, model_id, display_name, description, owner, task, framework, license, labels,
                    annotations, parameter_count, latest_version, create_time, update_time, revision, octets, search,
                    label_pairs)
OVERRIDING SYSTEM VALUE
SELECT id, 'default', model_id, display_name, description, labels::jsonb ->> 'team', task, 'pytorch', '', labels::jsonb,
       '{}', parameter_count, 3, create_time, create_time, id + 1, octets,
       model_words(model_id, display_name, labels::jsonb, description),
       ARRAY(SELECT key || '=' || value FROM jsonb_each_text(labels::jsonb))
  FROM drawn_models ORDER BY id
""",
    ),
    (
        "audit written",
        """
INSERT INTO audit (revision, ordinal, time, actor, action, resource, request_id, before, after)
SELECT id + 1, 1, create_time, labels::jsonb ->> 'team' || '@example.org', 'CreateModel',
       'namespaces/default/models/' || model_id, '', NULL,
       jsonb_build_object('display_name', display_name, 'task', task, 'parameter_count', parameter_count)
  FROM drawn_models ORDER BY id
""",
    ),
    (
        "vocabulary",
        """
INSERT INTO vocabulary (namespace_id, word)
SELECT DISTINCT 'default', word
  FROM drawn_models, spelt_words(model_text(model_id, display_name, labels::jsonb, description)) AS word
ON CONFLICT DO NOTHING
""",
    ),
    (
        "aliases, cards and deployments of some",
        """
INSERT INTO aliases (model, alias, version, valid, actor, revision)
SELECT id, 'production', 3, tstzrange(create_time, NULL), 'drawn', id + 1 FROM drawn_models WHERE id % 10 = 0;
INSERT INTO cards (model, number, sections, markdown, extra, front, update_time, actor, revision, octets)
SELECT id, 1, '{}', description, '{}', '', create_time, 'drawn', id + 1, 512 FROM drawn_models WHERE id % 10 = 0;
INSERT INTO deployments (namespace_id, deployment_id, model, model_id, version, environment, state, status_message,
                         endpoint, replicas, labels, create_time, update_time, revision, octets)
SELECT 'default', 'd' || id, id, model_id, 3, (ARRAY['production', 'staging'])[1 + id % 2], 'LIVE', '', '', 1, '{}',
       create_time, create_time, id + 1, 512
  FROM drawn_models WHERE id % 50 = 0;
INSERT INTO requests (actor, request_id, action, digest, revision, answer)
SELECT 'drawn', id::text, 'CreateModel', '', id + 1, '' FROM drawn_models WHERE id % 10 = 0
""",
    ),
    (
        "counters",
        """
WITH last AS (SELECT max(id) AS id, count(*) AS count FROM drawn_models), revised AS (
    UPDATE revision SET value = last.id + 1 FROM last
), told AS (
    INSERT INTO changes (revision, commit_time, resources, kinds, subtrees)
    SELECT last.id + 1, now(), '{namespaces/default}', '{2}', '{true}' FROM last
)
UPDATE namespace_usage
   SET models = last.count, asset_bytes = (SELECT sum(size_bytes) FROM versions)
  FROM last WHERE namespace_id = 'default';
INSERT INTO changes (revision, commit_time, resources, kinds, subtrees)
SELECT id + 1, create_time, ARRAY['namespaces/default/models/' || model_id], '{1}', '{true}'
  FROM drawn_models WHERE id > (SELECT max(id) - 100000 FROM drawn_models) AND id < (SELECT max(id) FROM drawn_models);
DELETE FROM changes WHERE revision = 1;
SELECT setval(pg_get_serial_sequence('models', 'id'), (SELECT max(id) FROM drawn_models));
DROP TABLE drawn_models
""",
    ),
)


def misspelt(word: str, generator: random.Random) -> str:
    """
    *word* with one letter left out, doubled, replaced or swapped with the next.
    """
    place = generator.randrange(1, len(word) - 1)
    match generator.randrange(4):
        case 0:
            return word[:place] + word[place + 1 :]
        case 1:
            return word[:place] + word[place] + word[place:]
        case 2:
            return word[:place] + generator.choice("aeiours") + word[place + 1 :]
        case _:
            return word[:place] + word[place + 1] + word[place] + word[place + 2 :]


def words_of(text: str) -> list[str]:
    """
    The words of a name that a person would type.
    """
    return [word for word in re.split(r"[^A-Za-z0-9]+", text) if len(word) > 3 and not word.isdigit()]
