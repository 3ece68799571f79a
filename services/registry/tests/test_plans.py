"""
Every statement finds its rows by an index.

`make plans` asks the planner of a registry with a million models. `make test` asks that of a small one, where a scan of
a whole table may well be the fastest way: so scans are discouraged, and appear only where no index would do.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask

from bench.grown import grown
from bench.population import Drawn, draw, populate
from embedded.postgres import SERVICE_ROLE, owner
from modelyard.registry.v1 import (
    alias_rules_pb2,
    aliases_pb2,
    audit_pb2,
    cards_pb2,
    deployments_pb2,
    evaluations_pb2,
    imports_pb2,
    models_pb2,
    namespaces_pb2,
    policies_pb2,
    promotions_pb2,
    tokens_pb2,
    versions_pb2,
)
from services.chassis.errors import FailedPrecondition
from services.ledger.model.calls import Missing
from services.ledger.store.changelog import Changelog
from services.ledger.store.database import Database, DatabaseSettings, open_database
from services.ledger.store.statements import Statement
from services.ledger.store.writer import Writer
from services.ledger.tests.statements import observed
from services.registry.model.names import ModelName
from services.registry.model.pins import PinRelease
from services.registry.model.references import Reference
from services.registry.store.api_tokens import ApiTokenStore
from services.registry.store.imports import STAGE
from services.registry.store.models import ModelStore
from services.registry.store.oci import OciJob, OciStore
from services.registry.store.pin_releases import PinReleaseStore
from services.registry.store.purging import PARTS
from services.registry.store.search.vocabulary import Vocabulary
from services.registry.tests.calls import DEFAULT, deploy, import_items, move, status, watch, write_card
from services.registry.tests.fake_assets import new_fake_assets, serving
from services.registry.tests.server import Failing, Registry, running

SCALE = int(os.environ.get("MODELYARD_PLANS_SCALE", "0"))
SMALL = 400
SHA256 = "a" * 64
# A row or a handful, or one for each namespace.
_TINY = {"epoch", "revision", "namespaces", "namespace_usage", "policies", "schema_migrations"}


@pytest.fixture(scope="module")
async def database(new_database: Callable[[], str]) -> AsyncIterator[str]:
    """
    A database with many models.
    """
    if SCALE:
        folder = Path(os.environ.get("MODELYARD_PLANS_STATE", f".modelyard/bench/{SCALE}"))
        with grown(SCALE, lambda _: None, folder) as postgres:
            yield postgres.url(user=SERVICE_ROLE)
        return
    url = new_database()
    await populate(owner(url), SMALL, lambda _: None)
    yield url


def drawn() -> list[Drawn]:
    """
    The last ones of the population.
    """
    return list(draw(SCALE or SMALL))[-200:]


Asked = dict[str, tuple[Statement, tuple[Any, ...]]]


@pytest.fixture(scope="module")
async def asked(database: str) -> Asked:
    """
    Every statement that the registry's calls send, with the values of one time, by name.
    """
    found: Asked = {}

    def see(_connection: object, statement: Statement, args: tuple[Any, ...]) -> None:
        found[statement.name] = (statement, args)

    with observed(database, see):
        assets = new_fake_assets()
        assets.sizes[SHA256] = 1
        async with serving(assets) as cdn, running(database, cdn) as registry:
            for call in (reads, searches, writes, others):
                await call(registry)
    return found


async def reads(registry: Registry) -> None:
    """
    Every read except searches.
    """
    ids = [each.model_id for each in drawn() if each.number % 50 == 0]
    name = f"{DEFAULT}/models/{ids[0]}"
    for view in (models_pb2.MODEL_VIEW_BASIC, models_pb2.MODEL_VIEW_FULL):
        await registry.models.GetModel(models_pb2.GetModelRequest(name=name, view=view))
    names = [f"{DEFAULT}/models/{each.model_id}" for each in drawn()[:100]]
    await registry.models.BatchGetModels(models_pb2.BatchGetModelsRequest(parent=DEFAULT, names=names))
    page = await registry.models.ListModels(models_pb2.ListModelsRequest(parent=DEFAULT, page_size=10))
    again = models_pb2.ListModelsRequest(parent=DEFAULT, page_size=10, page_token=page.next_page_token)
    await registry.models.ListModels(again)
    await registry.namespaces.GetNamespace(namespaces_pb2.GetNamespaceRequest(name=DEFAULT))
    await registry.namespaces.ListNamespaces(namespaces_pb2.ListNamespacesRequest())
    await registry.versions.GetVersion(versions_pb2.GetVersionRequest(name=f"{name}/versions/1"))
    await registry.versions.ListVersions(versions_pb2.ListVersionsRequest(parent=name))
    for parent in (DEFAULT, "namespaces/-"):
        await registry.versions.FindVersions(versions_pb2.FindVersionsRequest(parent=parent, sha256=SHA256))
    for reference in ("production", "latest"):
        await registry.versions.ResolveVersion(versions_pb2.ResolveVersionRequest(parent=name, reference=reference))
    async with open_database(DatabaseSettings(url=registry.database)) as database:
        store, parent_name = OciStore(database), ModelName.parse(name)
        for wanted in (Reference(number=1), Reference(alias="production"), Reference(), f"sha256:{SHA256}"):
            with suppress(Missing, FailedPrecondition):
                await store.manifest(parent_name, wanted)
        await store.tags(parent_name, "", 10)
        with suppress(Missing):
            await store.blob(parent_name, f"sha256:{SHA256}")
    alias = f"{name}/aliases/production"
    await registry.aliases.GetAlias(aliases_pb2.GetAliasRequest(name=alias))
    await registry.aliases.ListAliases(aliases_pb2.ListAliasesRequest(parent=name))
    await registry.aliases.ListAliasMoves(aliases_pb2.ListAliasMovesRequest(parent=alias))
    await registry.cards.GetCard(cards_pb2.GetCardRequest(name=f"{name}/card"))
    await registry.cards.ListCardNumbers(cards_pb2.ListCardNumbersRequest(parent=f"{name}/card"))
    for parent in (name, f"{name}/versions/1"):
        await registry.evaluations.ListEvaluations(evaluations_pb2.ListEvaluationsRequest(parent=parent))
        for dataset, metric in (("imagenet", ""), ("", "top1")):
            page_of = evaluations_pb2.ListEvaluationsRequest(parent=parent, page_size=1, dataset=dataset, metric=metric)
            page_of.page_token = (await registry.evaluations.ListEvaluations(page_of)).next_page_token
            await registry.evaluations.ListEvaluations(page_of)
    await registry.evaluations.ListDatasets(evaluations_pb2.ListDatasetsRequest(parent=DEFAULT))
    await registry.evaluations.ListMetrics(evaluations_pb2.ListMetricsRequest(parent=DEFAULT))
    deployment = await registry.deployments.ListDeployments(
        deployments_pb2.ListDeploymentsRequest(parent=DEFAULT, model=name)
    )
    await registry.deployments.ListDeployments(
        deployments_pb2.ListDeploymentsRequest(
            parent=DEFAULT, version=f"{name}/versions/1", states=[deployments_pb2.Deployment.STATE_LIVE]
        )
    )
    await registry.deployments.GetDeployment(deployments_pb2.GetDeploymentRequest(name=deployment.deployments[0].name))


async def searches(registry: Registry) -> None:
    """
    Searches of every kind, leaderboards and the audit.
    """
    one = drawn()[0]
    words = one.model_id.replace("_", " ").split(".")[0]
    label = f'labels.architecture = "{one.labels["architecture"]}"'
    for query, condition, order in (
        (words, "", ""),
        ("vision", "", ""),
        ("visoin", "", ""),
        ("", label, ""),
        ("", "evaluations.imagenet.top1 > 80 AND parameters < 20000000", ""),
        ("vision", f"{label} AND task = retrieval", ""),
        ("vision", "", "parameter_count desc"),
        ("", "", "create_time"),
        ("", "", "update_time desc"),
        (one.model_id[:8], "", ""),
        ("", 'update_time > "2024-01-01T00:01:00Z" AND create_time < "2024-01-01T00:02:00Z"', ""),
        ("", "description:retrieval", ""),
        ("", "", "evaluations.imagenet.top1 desc"),
        ("vision", "", "evaluations.imagenet.top1"),
    ):
        await registry.models.SearchModels(
            models_pb2.SearchModelsRequest(parent=DEFAULT, query=query, filter=condition, order_by=order)
        )
    search = versions_pb2.SearchVersionsRequest(parent=f"{DEFAULT}/models/{one.model_id}", page_size=1)
    await registry.versions.SearchVersions(search)
    search = versions_pb2.SearchVersionsRequest(parent=DEFAULT, page_size=1)
    search.page_token = (await registry.versions.SearchVersions(search)).next_page_token
    await registry.versions.SearchVersions(search)
    for ascending in (False, True):
        await registry.evaluations.QueryLeaderboard(
            evaluations_pb2.QueryLeaderboardRequest(
                parent=DEFAULT,
                dataset="imagenet",
                metric="top1",
                filter="parameter_count < 20000000",
                ascending=ascending,
            )
        )
    queries: list[dict[str, Any]] = [
        {"resource_prefix": f"{DEFAULT}/models/{one.model_id}"},
        {"actor": "vision@example.org"},
        {"action": "MoveAliases"},
        {"start_time": datetime(2024, 1, 2, tzinfo=UTC), "end_time": datetime(2024, 1, 3, tzinfo=UTC)},
        {},
    ]
    for request in queries:
        await registry.audit.ListAuditEntries(audit_pb2.ListAuditEntriesRequest(page_size=10, **request))


async def writes(registry: Registry) -> None:
    """
    Every write.
    """
    model, run = f"plans-{os.getpid()}", str(os.getpid())
    name = f"{DEFAULT}/models/{model}"
    made = models_pb2.Model(description="for plans", labels={"a": "b"})
    create = models_pb2.CreateModelRequest(parent=DEFAULT, model_id=model, model=made, request_id=run)
    for _ in range(2):
        await registry.models.CreateModel(create)
    await registry.models.UpdateModel(
        models_pb2.UpdateModelRequest(model=models_pb2.Model(name=name), update_mask=FieldMask(paths=["owner"]))
    )
    for _ in range(2):
        lineage = versions_pb2.Lineage(parent_version=f"{DEFAULT}/models/{drawn()[0].model_id}/versions/1")
        files = [versions_pb2.Artifact(path="a", sha256=SHA256, size_bytes=1)]
        content = versions_pb2.Version(lineage=lineage, artifacts=files)
        await registry.versions.CreateVersion(versions_pb2.CreateVersionRequest(parent=name, version=content))
    await registry.versions.UpdateVersion(
        versions_pb2.UpdateVersionRequest(
            version=versions_pb2.Version(name=f"{name}/versions/1"), update_mask=FieldMask(paths=["stage"])
        )
    )
    await registry.versions.FinalizeVersion(versions_pb2.FinalizeVersionRequest(name=f"{name}/versions/1"))
    await registry.versions.FailVersion(versions_pb2.FailVersionRequest(name=f"{name}/versions/2"))
    await move(registry, model, ("a", 1))
    await move(registry, model, ("a", 0))
    await registry.aliases.RollbackAlias(aliases_pb2.RollbackAliasRequest(name=f"{name}/aliases/a"))
    await promote(registry, name)
    await write_card(registry, model, markdown="# words")
    result = evaluations_pb2.Evaluation(version=f"{name}/versions/1", dataset="d", metric="m", value=1)
    await registry.evaluations.RecordEvaluations(
        evaluations_pb2.RecordEvaluationsRequest(parent=DEFAULT, evaluations=[result])
    )
    await registry.evaluations.RecordEvaluations(
        evaluations_pb2.RecordEvaluationsRequest(parent=DEFAULT, evaluations=[result], replace=True)
    )
    found = await registry.evaluations.ListEvaluations(evaluations_pb2.ListEvaluationsRequest(parent=name))
    await registry.evaluations.DeleteEvaluations(
        evaluations_pb2.DeleteEvaluationsRequest(parent=DEFAULT, names=[found.evaluations[0].name])
    )
    await registry.evaluations.DeleteEvaluations(
        evaluations_pb2.DeleteEvaluationsRequest(
            parent=DEFAULT, selection=evaluations_pb2.DeleteEvaluationsRequest.Selection(version=f"{name}/versions/1")
        )
    )
    said = evaluations_pb2.Metric(metric="m", direction=evaluations_pb2.Metric.DIRECTION_LOWER)
    await registry.evaluations.UpdateMetric(evaluations_pb2.UpdateMetricRequest(parent=DEFAULT, metric=said))
    await deploy(registry, f"p{run}", model)
    await registry.deployments.UpdateDeployment(
        deployments_pb2.UpdateDeploymentRequest(
            deployment=deployments_pb2.Deployment(name=f"{DEFAULT}/deployments/p{run}", version=f"{name}/versions/1"),
            update_mask=FieldMask(paths=["version"]),
        )
    )
    await status(registry, f"p{run}", "FAILED")
    await registry.deployments.DeleteDeployment(
        deployments_pb2.DeleteDeploymentRequest(name=f"{DEFAULT}/deployments/p{run}")
    )
    await registry.versions.DeleteVersion(versions_pb2.DeleteVersionRequest(name=f"{name}/versions/1", force=True))
    item = imports_pb2.ImportModelsRequest.Item(model_id=f"{model}-imported", versions=[versions_pb2.Version()])
    await import_items(registry, [item])
    await registry.versions.CopyVersion(
        versions_pb2.CopyVersionRequest(parent=name, source=f"{name}-imported/versions/1")
    )
    await api_tokens(registry)
    space = f"namespaces/plans-{run}"
    await registry.namespaces.CreateNamespace(namespaces_pb2.CreateNamespaceRequest(namespace_id=f"plans-{run}"))
    await registry.namespaces.UpdateNamespace(
        namespaces_pb2.UpdateNamespaceRequest(
            namespace=namespaces_pb2.Namespace(name=space), update_mask=FieldMask(paths=["owner"])
        )
    )
    await registry.namespaces.DeleteNamespace(namespaces_pb2.DeleteNamespaceRequest(name=space))
    await registry.models.DeleteModel(models_pb2.DeleteModelRequest(name=name))
    await registry.models.PurgeModel(models_pb2.PurgeModelRequest(name=name))
    await registry.models.DeleteModel(models_pb2.DeleteModelRequest(name=f"{name}-imported"))
    await registry.models.CreateModel(
        models_pb2.CreateModelRequest(parent=DEFAULT, model_id=f"{model}-imported", replace_deleted=True)
    )
    await registry.models.DeleteModel(models_pb2.DeleteModelRequest(name=f"{name}-imported"))
    await registry.models.PurgeModel(models_pb2.PurgeModelRequest(name=f"{name}-imported"))


async def promote(registry: Registry, name: str) -> None:
    """
    Rules of aliases, and promotions.
    """
    rules = [f"{parent}/aliasRules/plans" for parent in (DEFAULT, name)]
    for rule in rules:
        content = alias_rules_pb2.AliasRule(name=rule, aliases=["b"], filter="NOT evaluations.d.m > 1 OR labels.a = b")
        await registry.alias_rules.SetAliasRule(alias_rules_pb2.SetAliasRuleRequest(rule=content))
        await registry.alias_rules.GetAliasRule(alias_rules_pb2.GetAliasRuleRequest(name=rule))
        parent = rule.removesuffix("/aliasRules/plans")
        await registry.alias_rules.ListAliasRules(alias_rules_pb2.ListAliasRulesRequest(parent=parent))
    promotion = promotions_pb2.Promotion(alias_id="b", version=f"{name}/versions/1")
    request = promotions_pb2.CreatePromotionRequest(parent=name, promotion=promotion)
    made = await registry.promotions.CreatePromotion(request)
    await registry.promotions.GetPromotion(promotions_pb2.GetPromotionRequest(name=made.name))
    with Failing():  # it is done already
        await registry.promotions.ApprovePromotion(promotions_pb2.ApprovePromotionRequest(name=made.name))
    for parent in (name, f"{DEFAULT}/models/-"):
        await registry.promotions.ListPromotions(promotions_pb2.ListPromotionsRequest(parent=parent))
    for rule in rules:
        await registry.alias_rules.DeleteAliasRule(alias_rules_pb2.DeleteAliasRuleRequest(name=rule))


async def api_tokens(registry: Registry) -> None:
    """
    Every call about API tokens, and what services follow of them.
    """
    token = tokens_pb2.ApiToken(role=policies_pb2.Policy.ROLE_READER)
    token.expire_time.FromDatetime(datetime.now(UTC) + timedelta(hours=1))
    async with asyncio.timeout(30):
        followed = registry.policies.WatchPolicies(policies_pb2.WatchPoliciesRequest())
        messages = aiter(followed)
        # The snapshot, and then what changes.
        await anext(messages)
        create = tokens_pb2.CreateApiTokenRequest(parent=DEFAULT, api_token=token)
        name = (await registry.api_tokens.CreateApiToken(create)).api_token.name
        while not (await anext(messages)).tokens:
            pass
        followed.cancel()
    await registry.api_tokens.GetApiToken(tokens_pb2.GetApiTokenRequest(name=name))
    page = tokens_pb2.ListApiTokensRequest(parent=DEFAULT, page_size=1)
    await registry.api_tokens.ListApiTokens(page)
    await registry.api_tokens.RecordTokenUse(
        tokens_pb2.RecordTokenUseRequest(uses=[tokens_pb2.RecordTokenUseRequest.Use(name=name, time=token.expire_time)])
    )
    await registry.api_tokens.RevokeApiToken(tokens_pb2.RevokeApiTokenRequest(name=name))


async def others(registry: Registry) -> None:
    """
    What the registry does by itself.
    """
    async with aclosing(watch(registry, start_revision=2, heartbeat_interval=Duration(nanos=200_000_000))) as messages:
        await anext(messages)
    async with open_database(DatabaseSettings(url=registry.database)) as database:
        await Changelog(database).after(1)
        await Changelog(database).trim(timedelta(days=3650))
        await Changelog(database).forget()
        await ApiTokenStore(database).forget()
        await ModelStore(database).due()
        await large(registry, database)
        await Vocabulary(database).forget()
        writer = Writer(database)
        await OciJob(database, writer).fill()
        await writer.close()
        await PinReleaseStore(database).take_due()
        await PinReleaseStore(database).delete([PinRelease(1, "", "")])


async def large(registry: Registry, database: Database) -> None:
    """
    A model that is purged in parts.
    """
    name = ModelName("default", f"plans-large-{os.getpid()}")
    await registry.models.CreateModel(models_pb2.CreateModelRequest(parent=DEFAULT, model_id=name.model))
    versions = [versions_pb2.CreateVersionRequest(parent=str(name)) for _ in range(60)]
    await asyncio.gather(*(registry.versions.CreateVersion(each) for each in versions))
    await registry.models.DeleteModel(models_pb2.DeleteModelRequest(name=str(name)))
    await registry.models.PurgeModel(models_pb2.PurgeModelRequest(name=str(name)))
    # A part of what that one has none of.
    await database.fetch(PARTS["deployments"], 0)


async def test_reads_leave_the_hot_row_alone(asked: Asked, database: str) -> None:
    """
    No read looks at the row that every write updates: while a snapshot is open its dead versions stay.
    """
    connection = await asyncpg.connect(owner(database))
    hot = set()
    try:
        for name, (statement, args) in asked.items():
            if statement.anywhere:
                plan = json.loads(await connection.fetchval(f"EXPLAIN (FORMAT JSON) {statement.sql}", *args))
                if any(each.get("Relation Name") == "revision" for each in _nodes(plan[0]["Plan"])):
                    hot.add(name)
    finally:
        await connection.close()
    assert hot == set()


async def test_every_statement_uses_an_index(asked: Asked, database: str) -> None:
    """
    No statement scans a whole table that grows with the number of registered models.
    """
    assert len(asked) > 60
    connection = await asyncpg.connect(owner(database))
    scans: dict[str, set[str]] = {}
    try:
        # A page or two are read faster than an index.
        small = await connection.fetch("SELECT relname FROM pg_class WHERE relpages < 8 AND relkind = 'r'")
        # Months to come, which are read in no time in any way.
        empty = await connection.fetch(r"SELECT relname FROM pg_class WHERE relpages = 0 AND relname LIKE 'audit\_2%'")
        tiny = (
            _TINY
            | {"staged_results"}
            | {row["relname"] for row in empty}
            | ({row["relname"] for row in small} if SCALE else set())
        )
        await connection.execute(STAGE.sql)
        await connection.execute("SET plan_cache_mode = force_custom_plan")
        if not SCALE:
            await connection.execute("SET enable_seqscan = off")
        for name, (statement, args) in sorted(asked.items()):
            if not re.match(r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH)", statement.sql):
                continue
            plan = json.loads(await connection.fetchval(f"EXPLAIN (FORMAT JSON) {statement.sql}", *args))
            if found := {each["Relation Name"] for each in _nodes(plan[0]["Plan"]) if each["Node Type"] == "Seq Scan"}:
                scans[name] = {each for each in found - tiny if not each.startswith("pg_")}
    finally:
        await connection.close()
    assert {name: tables for name, tables in scans.items() if tables} == {}


def _nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(node for inner in plan.get("Plans", ()) for node in _nodes(inner))]
