# ruff: noqa: S608 - only constants are interpolated; values are parameters
"""
What a full view of models has beside the models: their aliases, and their newest version of each stage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from services.ledger.store.servers import Row, Snapshot
from services.ledger.store.statements import Statement
from services.registry.model.aliases import Alias
from services.registry.model.models import Model
from services.registry.model.names import AliasName, ModelName, NamespaceName
from services.registry.model.versions import Version
from services.registry.store import rows
from services.registry.store.search.fitting import ALIAS_OCTETS

_MOST_STAGES = 100
# No further version of a model once there are so many bytes of them.
_MOST_OCTETS = 512 << 10

_ALIASES = Statement(
    "aliases.of_models",
    """
SELECT models.model_id, aliases.alias, aliases.version, lower(aliases.valid) AS start_time, aliases.actor,
       aliases.revision
  FROM models JOIN aliases ON aliases.model = models.id AND upper_inf(aliases.valid) AND aliases.version IS NOT NULL
 WHERE models.namespace_id = $1 AND models.model_id = ANY($2::text[])
 ORDER BY models.model_id, aliases.alias
""",
)

# From one stage to the next along an index, however many versions a stage has.
_NEWEST = Statement(
    "versions.newest_by_stage",
    f"""
SELECT models.model_id, found.*
  FROM models, LATERAL (
    SELECT counted.*
      FROM (SELECT brief.*, sum(octets) OVER (ORDER BY number DESC) - octets AS octets_before
              FROM (
                WITH RECURSIVE staged (stage, number, place) AS (
                    (SELECT stage, number, 1 FROM versions
                      WHERE model = models.id AND state IN ('PENDING', 'READY')
                      ORDER BY stage, number DESC LIMIT 1)
                    UNION ALL
                    SELECT next.stage, next.number, place + 1
                      FROM staged, LATERAL (
                        SELECT stage, number FROM versions
                         WHERE model = models.id AND state IN ('PENDING', 'READY') AND stage > staged.stage
                         ORDER BY stage, number DESC LIMIT 1) AS next
                     WHERE place < {_MOST_STAGES}
                )
                SELECT {rows.BRIEF_VERSION}, {rows.BRIEF_OCTETS} AS octets
                  FROM staged JOIN versions ON versions.model = models.id AND versions.number = staged.number
              ) AS brief) AS counted
     WHERE octets_before < {_MOST_OCTETS}
  ) AS found
 WHERE models.namespace_id = $1 AND models.model_id = ANY($2::text[])
 ORDER BY models.model_id, found.number DESC
""",
)


@dataclass(frozen=True, slots=True)
class More:
    """
    What a full view has of one model.

    Args:
        octets: about how many bytes.
    """

    aliases: tuple[Alias, ...]
    newest: tuple[Version, ...]
    octets: int


async def more_of(snapshot: Snapshot, parent: NamespaceName, models: Sequence[str]) -> dict[str, More]:
    """
    What a full view has of models, by their ids.
    """
    aliases: dict[str, list[Row]] = {}
    newest: dict[str, list[Row]] = {}
    for row in await snapshot.fetch(_ALIASES, [parent.namespace, list(models)]):
        aliases.setdefault(row["model_id"], []).append(row)
    for row in await snapshot.fetch(_NEWEST, [parent.namespace, list(models)]):
        newest.setdefault(row["model_id"], []).append(row)
    return {
        each: _more(ModelName(parent.namespace, each), aliases.get(each, []), newest.get(each, [])) for each in models
    }


def with_more(model: Model, more: Mapping[str, More]) -> Model:
    """
    A model with what a full view has of it, if that was read.
    """
    found = more.get(model.name.model)
    return model if found is None else replace(model, aliases=found.aliases, newest=found.newest)


def _more(name: ModelName, aliases: Sequence[Row], newest: Sequence[Row]) -> More:
    return More(
        tuple(rows.to_alias(row, AliasName(name.namespace, name.model, row["alias"])) for row in aliases),
        tuple(rows.to_version(row, name) for row in newest),
        ALIAS_OCTETS * len(aliases) + sum(row["octets"] for row in newest),
    )
