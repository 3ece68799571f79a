"""
Access by namespace: what a policy allows, and that what a caller may not read does not exist.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from modelyard.access.v1 import access_pb2
from modelyard.changes.v1 import changes_pb2
from modelyard.contracts import permissions, services
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
from services.chassis.access.identity import Identity
from services.chassis.access.policies import Bindings, Policies
from services.chassis.access.roles import PERMISSIONS, Role
from services.ledger.model.changes import Change, ChangeKind, Revision
from services.ledger.model.pages import Query
from services.registry.service import visibility
from services.registry.service.changes import ChangeService
from services.registry.tests.guarded import Guarded
from services.registry.tests.server import Failing, Failure, Registry, failure_of

POLICY = policies_pb2.Policy
SHA = "a" * 64


def requests(namespace: str) -> Mapping[str, Message]:
    """
    A request of every RPC that is about a namespace, by its name.
    """
    parent = f"namespaces/{namespace}"
    model = f"{parent}/models/m"
    version = f"{model}/versions/1"
    card = cards_pb2.Card(name=f"{model}/card", markdown="hi")
    evaluation = evaluations_pb2.Evaluation(version=version, dataset="d", metric="top1", value=1)
    deployment = deployments_pb2.Deployment(version=version, environment="production")
    return {
        "GetNamespace": namespaces_pb2.GetNamespaceRequest(name=parent),
        "UpdateNamespace": namespaces_pb2.UpdateNamespaceRequest(
            namespace=namespaces_pb2.Namespace(name=parent), update_mask=FieldMask(paths=["owner"])
        ),
        "DeleteNamespace": namespaces_pb2.DeleteNamespaceRequest(name=parent),
        "CreateModel": models_pb2.CreateModelRequest(parent=parent, model_id="new"),
        "GetModel": models_pb2.GetModelRequest(name=model),
        "BatchGetModels": models_pb2.BatchGetModelsRequest(parent=parent, names=[model]),
        "ListModels": models_pb2.ListModelsRequest(parent=parent),
        "SearchModels": models_pb2.SearchModelsRequest(parent=parent, query="m"),
        "UpdateModel": models_pb2.UpdateModelRequest(
            model=models_pb2.Model(name=model), update_mask=FieldMask(paths=["owner"])
        ),
        "DeleteModel": models_pb2.DeleteModelRequest(name=model),
        "UndeleteModel": models_pb2.UndeleteModelRequest(name=model),
        "PurgeModel": models_pb2.PurgeModelRequest(name=model),
        "CreateVersion": versions_pb2.CreateVersionRequest(parent=model),
        "GetVersion": versions_pb2.GetVersionRequest(name=version),
        "ResolveVersion": versions_pb2.ResolveVersionRequest(parent=model, reference="latest"),
        "ListVersions": versions_pb2.ListVersionsRequest(parent=model),
        "UpdateVersion": versions_pb2.UpdateVersionRequest(
            version=versions_pb2.Version(name=version), update_mask=FieldMask(paths=["stage", "lineage"])
        ),
        "FinalizeVersion": versions_pb2.FinalizeVersionRequest(name=version),
        "FailVersion": versions_pb2.FailVersionRequest(name=version),
        "DeleteVersion": versions_pb2.DeleteVersionRequest(name=version),
        "CopyVersion": versions_pb2.CopyVersionRequest(parent=model, source=version),
        "SearchVersions": versions_pb2.SearchVersionsRequest(parent=parent),
        "FindVersions": versions_pb2.FindVersionsRequest(parent=parent, sha256=SHA),
        "CreateApiToken": tokens_pb2.CreateApiTokenRequest(
            parent=parent,
            api_token=tokens_pb2.ApiToken(
                role=POLICY.ROLE_READER,
                scopes=["registry.read"],
                expire_time=Timestamp(seconds=int(time.time()) + 3600),
            ),
        ),
        "GetApiToken": tokens_pb2.GetApiTokenRequest(name=f"{parent}/tokens/aaaaaaaaaa"),
        "ListApiTokens": tokens_pb2.ListApiTokensRequest(parent=parent),
        "RevokeApiToken": tokens_pb2.RevokeApiTokenRequest(name=f"{parent}/tokens/aaaaaaaaaa"),
        "GetOciManifest": versions_pb2.GetOciManifestRequest(parent=model, reference="latest"),
        "GetOciBlob": versions_pb2.GetOciBlobRequest(parent=model, digest=f"sha256:{SHA}"),
        "GetOciTags": versions_pb2.GetOciTagsRequest(parent=model),
        "MoveAliases": aliases_pb2.MoveAliasesRequest(
            parent=model, moves=[aliases_pb2.MoveAliasesRequest.Move(alias_id="a", version=version)]
        ),
        "GetAlias": aliases_pb2.GetAliasRequest(name=f"{model}/aliases/a"),
        "ListAliases": aliases_pb2.ListAliasesRequest(parent=model),
        "ListAliasMoves": aliases_pb2.ListAliasMovesRequest(parent=f"{model}/aliases/a"),
        "RollbackAlias": aliases_pb2.RollbackAliasRequest(name=f"{model}/aliases/a"),
        "SetAliasRule": alias_rules_pb2.SetAliasRuleRequest(
            rule=alias_rules_pb2.AliasRule(name=f"{parent}/aliasRules/r", aliases=["x-*"], required_approvals=1)
        ),
        "GetAliasRule": alias_rules_pb2.GetAliasRuleRequest(name=f"{model}/aliasRules/r"),
        "ListAliasRules": alias_rules_pb2.ListAliasRulesRequest(parent=model),
        "DeleteAliasRule": alias_rules_pb2.DeleteAliasRuleRequest(name=f"{model}/aliasRules/r"),
        "CreatePromotion": promotions_pb2.CreatePromotionRequest(
            parent=model, promotion=promotions_pb2.Promotion(alias_id="a", version=version)
        ),
        "ApprovePromotion": promotions_pb2.ApprovePromotionRequest(name=f"{model}/promotions/1"),
        "RejectPromotion": promotions_pb2.RejectPromotionRequest(name=f"{model}/promotions/1"),
        "CancelPromotion": promotions_pb2.CancelPromotionRequest(name=f"{model}/promotions/1"),
        "GetPromotion": promotions_pb2.GetPromotionRequest(name=f"{model}/promotions/1"),
        "ListPromotions": promotions_pb2.ListPromotionsRequest(parent=model),
        "GetCard": cards_pb2.GetCardRequest(name=f"{model}/card"),
        "UpdateCard": cards_pb2.UpdateCardRequest(card=card, update_mask=FieldMask(paths=["markdown"])),
        "ListCardNumbers": cards_pb2.ListCardNumbersRequest(parent=f"{model}/card"),
        "ImportCard": cards_pb2.ImportCardRequest(name=f"{model}/card", content="# hi"),
        "ExportCard": cards_pb2.ExportCardRequest(name=f"{model}/card"),
        "CreateDeployment": deployments_pb2.CreateDeploymentRequest(
            parent=parent, deployment_id="d", deployment=deployment
        ),
        "GetDeployment": deployments_pb2.GetDeploymentRequest(name=f"{parent}/deployments/d"),
        "ListDeployments": deployments_pb2.ListDeploymentsRequest(parent=parent),
        "UpdateDeployment": deployments_pb2.UpdateDeploymentRequest(
            deployment=deployments_pb2.Deployment(name=f"{parent}/deployments/d", endpoint="http://a"),
            update_mask=FieldMask(paths=["endpoint"]),
        ),
        "DeleteDeployment": deployments_pb2.DeleteDeploymentRequest(name=f"{parent}/deployments/d"),
        "UpdateDeploymentStatus": deployments_pb2.UpdateDeploymentStatusRequest(
            name=f"{parent}/deployments/d", state=deployments_pb2.Deployment.STATE_LIVE
        ),
        "WatchDeployment": deployments_pb2.WatchDeploymentRequest(name=f"{parent}/deployments/d"),
        "RecordEvaluations": evaluations_pb2.RecordEvaluationsRequest(parent=parent, evaluations=[evaluation]),
        "DeleteEvaluations": evaluations_pb2.DeleteEvaluationsRequest(
            parent=parent, selection=evaluations_pb2.DeleteEvaluationsRequest.Selection(version=version)
        ),
        "ListEvaluations": evaluations_pb2.ListEvaluationsRequest(parent=model),
        "QueryLeaderboard": evaluations_pb2.QueryLeaderboardRequest(parent=parent, dataset="d", metric="top1"),
        "ListDatasets": evaluations_pb2.ListDatasetsRequest(parent=parent),
        "ListMetrics": evaluations_pb2.ListMetricsRequest(parent=parent),
        "UpdateMetric": evaluations_pb2.UpdateMetricRequest(
            parent=parent,
            metric=evaluations_pb2.Metric(metric="top1", direction=evaluations_pb2.Metric.DIRECTION_HIGHER),
        ),
        "ImportModels": imports_pb2.ImportModelsRequest(
            parent=parent, items=[imports_pb2.ImportModelsRequest.Item(model_id="i")]
        ),
        "GetPolicy": policies_pb2.GetPolicyRequest(name=f"{parent}/policy"),
        "SetPolicy": policies_pb2.SetPolicyRequest(policy=POLICY(name=f"{parent}/policy")),
        "TestPermissions": policies_pb2.TestPermissionsRequest(resource=parent),
    }


async def ask(guarded: Guarded, name: str, request: Message, **caller: Any) -> Any:
    """
    Call an RPC: its response (of a stream the first one), or its failure.
    """
    stubs = [value for value in vars(guarded.registry).values() if hasattr(value, name)]
    method = getattr(stubs[0], name)
    try:
        if isinstance(method, grpc.aio.StreamStreamMultiCallable):
            return await method(iter([request]), **caller).read()
        if isinstance(method, grpc.aio.UnaryStreamMultiCallable):
            call = method(request, **caller)
            first = await call.read()
            call.cancel()
            return first
        return await method(request, **caller)
    except grpc.aio.AioRpcError as error:
        return failure_of(error)


def said(failure: Failure, namespace: str) -> tuple[Any, ...]:
    """
    All that a failure says, but for the namespace's id, the request's id and the revision.
    """
    trailing = {
        key: re.sub(rb"\b%s\b" % namespace.encode(), b"NAMESPACE", value) if isinstance(value, bytes) else value
        for key, value in failure.trailing.items()
        if key not in {"x-request-id", "x-revision", "x-visibility"}
    }
    return failure.code, re.sub(rf"\b{namespace}\b", "NAMESPACE", failure.message), trailing


METHODS = [
    method
    for service in services()
    if service.full_name.startswith("modelyard.registry.")
    for method in service.methods
]
ABOUT_ONE = [
    method.name
    for method in METHODS
    if any(each.of for each in permissions()[f"/{method.containing_service.full_name}/{method.name}"])
]


def test_every_rpc_names_its_permissions() -> None:
    """
    Every RPC of the contracts names permissions; those of namespaces are in the table of roles.
    """
    known = permissions()
    for service in services():
        for method in service.methods:
            needed = known[f"/{service.full_name}/{method.name}"]
            if service.full_name.startswith("modelyard.registry."):
                assert {each.name for each in needed} <= PERMISSIONS.keys(), method.full_name


def test_every_rpc_about_a_namespace_is_asked_here() -> None:
    """
    The requests of these tests cover every RPC with a permission in a namespace.
    """
    assert set(ABOUT_ONE) <= requests("x").keys()


@pytest.mark.parametrize("name", [*ABOUT_ONE, "TestPermissions"])
async def test_what_may_not_be_read_does_not_exist(guarded: Guarded, hidden: str, name: str) -> None:
    """
    A stranger gets the same response about a namespace that exists as about one that does not.
    """
    missing = f"{'x' * len(hidden)}"
    there = await ask(guarded, name, requests(hidden)[name], **guarded.as_("stranger"))
    nowhere = await ask(guarded, name, requests(missing)[name], **guarded.as_("stranger"))
    if name == "TestPermissions":
        # What the registry's policy gives everywhere.
        assert there == nowhere
        assert "models.write" in there.permissions
        return
    assert isinstance(there, Failure), there
    assert isinstance(nowhere, Failure), nowhere
    assert said(there, hidden) == said(nowhere, missing)


@pytest.fixture(scope="module")
async def hidden(guarded: Guarded) -> str:
    """
    A private namespace of "ann" with a model, a version, an alias, a card, results and a deployment.
    """
    await guarded.namespace("hidden", "ann")
    ann = guarded.as_("ann")
    model = "namespaces/hidden/models/m"
    found = requests("hidden")
    await guarded.registry.models.CreateModel(
        models_pb2.CreateModelRequest(parent="namespaces/hidden", model_id="m"), **ann
    )
    for _ in range(2):
        made = await guarded.registry.versions.CreateVersion(versions_pb2.CreateVersionRequest(parent=model), **ann)
        await guarded.registry.versions.FinalizeVersion(versions_pb2.FinalizeVersionRequest(name=made.name), **ann)
    draft = versions_pb2.Version(artifacts=[versions_pb2.Artifact(path="w", sha256=SHA, size_bytes=1)])
    await guarded.registry.versions.CreateVersion(versions_pb2.CreateVersionRequest(parent=model, version=draft), **ann)
    async with guarded.registry.owner() as connection:
        # There is no asset service that would pin it.
        await connection.execute("UPDATE versions SET state = 'READY' WHERE state = 'PENDING'")
    for name in ("MoveAliases", "UpdateCard", "RecordEvaluations", "CreateDeployment"):
        assert not isinstance(found_ := await ask(guarded, name, found[name], **ann), Failure), found_
    await guarded.set_policy("namespaces/hidden/policy", private=True, owner="user:ann", reader="group:readers")
    return "hidden"


async def test_a_parent_version_that_may_not_be_read_does_not_exist(guarded: Guarded, hidden: str) -> None:
    """
    To name a version of a hidden namespace as the parent of one's own, in a new version or in an update, tells nothing
    about it.
    """
    missing = "x" * len(hidden)
    await guarded.namespace("lineage", "bob")
    bob, model = guarded.as_("bob"), "namespaces/lineage/models/m"
    await guarded.registry.models.CreateModel(
        models_pb2.CreateModelRequest(parent="namespaces/lineage", model_id="m"), **bob
    )
    draft = versions_pb2.Version(artifacts=[versions_pb2.Artifact(path="w", sha256=SHA, size_bytes=1)])
    made = await guarded.registry.versions.CreateVersion(
        versions_pb2.CreateVersionRequest(parent=model, version=draft), **bob
    )
    for name in ("CreateVersion", "UpdateVersion"):
        found = []
        for namespace in (hidden, missing):
            lineage = versions_pb2.Lineage(parent_version=f"namespaces/{namespace}/models/m/versions/1")
            request: Message = versions_pb2.CreateVersionRequest(
                parent=model, version=versions_pb2.Version(lineage=lineage)
            )
            if name == "UpdateVersion":
                request = versions_pb2.UpdateVersionRequest(
                    version=versions_pb2.Version(name=made.name, lineage=lineage),
                    update_mask=FieldMask(paths=["lineage"]),
                )
            failure = await ask(guarded, name, request, **bob)
            assert isinstance(failure, Failure), failure
            found.append(said(failure, namespace))
        assert found[0] == found[1], name


async def refusals(guarded: Guarded, name: str, make: Callable[[str], Message], *namespaces: str) -> list[Any]:
    """
    What bob is told of a request about each of some namespaces, of which it may read none.
    """
    found = []
    for namespace in namespaces:
        failure = await ask(guarded, name, make(namespace), **guarded.as_("bob"))
        assert isinstance(failure, Failure), failure
        found.append(said(failure, namespace))
    return found


async def test_page_tokens_of_hidden_namespaces(guarded: Guarded, hidden: str) -> None:
    """
    A page token, which anybody can compute, is as good in a hidden namespace as in one that does not exist.
    """

    def request(namespace: str) -> Message:
        parent = f"namespaces/{namespace}"
        token = Query("ListModels", (parent, "False"), (str,)).token(("a",))
        return models_pb2.ListModelsRequest(parent=parent, page_token=token)

    there, nowhere = await refusals(guarded, "ListModels", request, hidden, "x" * len(hidden))
    assert there == nowhere
    assert there[0] is grpc.StatusCode.NOT_FOUND


async def test_used_request_ids_in_hidden_namespaces(guarded: Guarded, hidden: str) -> None:
    """
    A request id that the caller has used for something else is refused in a hidden namespace as in one that does not
    exist. One that it has used for the same request, when it might, does not get the response of then.
    """
    await guarded.namespace("reusing", "bob")
    bob, missing = guarded.as_("bob"), "x" * len(hidden)

    def request(namespace: str) -> models_pb2.CreateModelRequest:
        return models_pb2.CreateModelRequest(parent=f"namespaces/{namespace}", model_id="m", request_id="mine")

    made = await guarded.registry.models.CreateModel(request("reusing"), **bob)
    assert await guarded.registry.models.CreateModel(request("reusing"), **bob) == made
    there, nowhere = await refusals(guarded, "CreateModel", request, hidden, missing)
    assert there == nowhere
    assert there[0] is grpc.StatusCode.ALREADY_EXISTS
    await guarded.set_policy("namespaces/reusing/policy", private=True)
    (revoked,) = await refusals(guarded, "CreateModel", request, "reusing")
    assert revoked[0] is grpc.StatusCode.NOT_FOUND
    # What was refused has left the id as it was.
    await guarded.set_policy("namespaces/reusing/policy", private=True, writer="user:bob")
    assert await guarded.registry.models.CreateModel(request("reusing"), **bob) == made


@pytest.mark.parametrize("role", [role for role in Role if role is not Role.NONE])
async def test_roles(guarded: Guarded, role: Role) -> None:
    """
    Every RPC is denied to the roles below the one that its permission needs, and to no other.
    """
    await guarded.namespace(f"role-{role}")
    await guarded.set_policy(f"namespaces/role-{role}/policy", private=True, **{role.name.lower(): "user:bob"})
    needed = permissions()
    for method in METHODS:
        if method.name not in ABOUT_ONE:
            continue
        names = [each.name for each in needed[f"/{method.containing_service.full_name}/{method.name}"]]
        request = requests(f"role-{role}")[method.name]
        if method.name in {"DeleteNamespace", "SetPolicy"}:
            # A good request would change what the others find.
            request = type(request)(request_id="x" * 200)
            request.MergeFrom(requests(f"role-{role}")[method.name])
        found = await ask(guarded, method.name, request, **guarded.as_("bob"))
        denied = isinstance(found, Failure) and found.code is grpc.StatusCode.PERMISSION_DENIED
        assert denied == any(PERMISSIONS[each] > role for each in names), (method.name, found)
        if denied:
            assert found.reason == "PERMISSION_DENIED"
            assert found.metadata["resource"] == f"namespaces/role-{role}"


async def test_replacing_needs_the_right_to_delete(guarded: Guarded) -> None:
    """
    Who may create models and not delete them may not create one in the place of a deleted one.
    """
    await guarded.namespace("replaced")
    await guarded.set_policy("namespaces/replaced/policy", private=True, writer="user:bob", maintainer="user:eve")
    request = models_pb2.CreateModelRequest(parent="namespaces/replaced", model_id="new", replace_deleted=True)
    found = await ask(guarded, "CreateModel", request, **guarded.as_("bob"))
    assert (found.code, found.metadata["permission"]) == (grpc.StatusCode.PERMISSION_DENIED, "models.delete")
    assert (await ask(guarded, "CreateModel", request, **guarded.as_("eve"))).actor.endswith("eve")


async def test_lists_show_only_what_may_be_read(guarded: Guarded, hidden: str) -> None:
    """
    Namespaces, versions by digest, audit entries and changes of a private namespace are in nobody's lists but its
    readers'.
    """
    registry = guarded.registry
    for caller, sees in ((guarded.as_("stranger"), False), (guarded.as_("eve", groups=["readers"]), True)):
        page = await registry.namespaces.ListNamespaces(namespaces_pb2.ListNamespacesRequest(page_size=1000), **caller)
        assert (f"namespaces/{hidden}" in {each.name for each in page.namespaces}) is sees
        watch = registry.changes.WatchChanges(changes_pb2.WatchChangesRequest(start_revision=1), **caller)
        told: set[str] = set()
        async for event in watch:
            told.update(change.resource for change in event.revision.changes)
            if event.heartbeat.HasField("current_until"):
                break
        watch.cancel()
        assert any(each.startswith(f"namespaces/{hidden}/models/") for each in told) is sees
        with_digest = versions_pb2.FindVersionsRequest(parent="namespaces/-", sha256=SHA)
        matches = (await registry.versions.FindVersions(with_digest, **caller)).matches
        assert (f"namespaces/{hidden}/" in str(matches)) is sees
    audit = audit_pb2.ListAuditEntriesRequest(page_size=1000)
    for caller, sees in ((guarded.as_("eve", groups=["readers"]), False), (guarded.as_("ann"), True)):
        entries = (await registry.audit.ListAuditEntries(audit, **caller)).entries
        assert any(each.resource.startswith(f"namespaces/{hidden}/") for each in entries) is sees
        assert all(each.resource.startswith(f"namespaces/{hidden}") for each in entries)


def released_scopes() -> dict[str, str]:
    """
    The scope that each RPC of the registry needed in the last release, by its name.
    """
    file = Path(__file__).resolve().parents[3] / "protos" / "released.binpb"
    found = descriptor_pb2.FileDescriptorSet.FromString(file.read_bytes())
    return {
        method.name: method.options.Extensions[access_pb2.scope]
        for each in found.file
        if each.package == "modelyard.registry.v1"
        for service in each.service
        for method in service.method
    }


async def test_nothing_changes_for_anybody(guarded: Guarded) -> None:
    """
    By the policy that the migration makes, a token may do in every namespace what its scopes allow: of the RPCs of the
    last release, a token with the registry's scopes is denied those that needed `admin`, and no other.
    """
    await guarded.namespace("before")
    before, bob = released_scopes(), guarded.as_("bob")
    assert {"registry.read", "registry.write", "admin"} <= set(before.values())
    denied = set()
    for name in set(ABOUT_ONE) & before.keys():
        found = await ask(guarded, name, requests("before")[name], **bob)
        if isinstance(found, Failure) and found.code is grpc.StatusCode.PERMISSION_DENIED:
            denied.add(name)
    assert denied == {name for name in ABOUT_ONE if before.get(name) == "admin"}


async def burn(guarded: Guarded, namespace: str, *, private: bool = True) -> str:
    """
    Create a namespace of ann's, and delete it. Returns the name of a model that was in it.
    """
    await guarded.namespace(namespace, "ann")
    await guarded.set_policy(f"namespaces/{namespace}/policy", private=private, owner="user:ann")
    registry, ann = guarded.registry, guarded.as_("ann")
    model = models_pb2.CreateModelRequest(parent=f"namespaces/{namespace}", model_id="unannounced")
    name = (await registry.models.CreateModel(model, **ann)).name
    await registry.models.DeleteModel(models_pb2.DeleteModelRequest(name=name), **ann)
    await registry.models.PurgeModel(models_pb2.PurgeModelRequest(name=name), **ann)
    gone = namespaces_pb2.DeleteNamespaceRequest(name=f"namespaces/{namespace}")
    await registry.namespaces.DeleteNamespace(gone, **ann)
    return name


async def changed(guarded: Guarded, **caller: Any) -> set[str]:
    """
    The resources of all changes that a caller is told of.
    """
    watch = guarded.registry.changes.WatchChanges(changes_pb2.WatchChangesRequest(start_revision=1), **caller)
    told: set[str] = set()
    async for event in watch:
        told.update(change.resource for change in event.revision.changes)
        if event.heartbeat.HasField("current_until"):
            break
    watch.cancel()
    return told


async def audited(guarded: Guarded, namespace: str, **caller: Any) -> set[str]:
    """
    The resources of a namespace's entries in the audit log that a caller may read.
    """
    request = audit_pb2.ListAuditEntriesRequest(resource_prefix=f"namespaces/{namespace}", page_size=1000)
    return {each.resource for each in (await guarded.registry.audit.ListAuditEntries(request, **caller)).entries}


async def test_a_deleted_namespace_stays_hidden(guarded: Guarded) -> None:
    """
    What happened in a private namespace is not told to strangers once it has been deleted; to the registry's owners it
    is.
    """
    name = await burn(guarded, "burned")
    stranger, root = guarded.as_("stranger"), guarded.as_("root", "admin registry.read")
    assert name not in await changed(guarded, **stranger)
    assert await audited(guarded, "burned", **stranger) == set()
    assert name in await changed(guarded, **root)
    assert name in await audited(guarded, "burned", **root)


@pytest.mark.parametrize("private", [True, False])
async def test_a_new_namespace_has_no_past(guarded: Guarded, private: bool) -> None:
    """
    Who creates a namespace of the name of a deleted one is not told what happened in that: nor is anybody else but the
    registry's owners and the services that follow the registry. What happens from then on is told.
    """
    namespace = f"again-{private}".lower()
    name = await burn(guarded, namespace, private=private)
    await guarded.namespace(namespace, "gil")
    gil, root = guarded.as_("gil"), guarded.as_("root", "admin registry.read")
    policy = f"namespaces/{namespace}/policy"
    found = await guarded.registry.policies.GetPolicy(policies_pb2.GetPolicyRequest(name=policy), **gil)
    assert not found.private
    assert [list(each.members) for each in found.bindings] == [["user:gil"]]
    assert await audited(guarded, namespace, **gil) == {f"namespaces/{namespace}", policy}
    for caller in (gil, guarded.as_("stranger")):
        told = await changed(guarded, **caller)
        assert policy in told
        assert name not in told
    assert name in await audited(guarded, namespace, **root)
    for caller in (root, guarded.as_("cache", "registry.read registry.follow")):
        assert name in await changed(guarded, **caller)


async def test_of_whoever_deletes_it(guarded: Guarded) -> None:
    """
    The same holds for namespaces that are deleted and created by programs that know nothing of policies, as those of
    the last release. A namespace that they create has a policy without bindings.
    """
    await guarded.namespace("older", "ann")
    await guarded.set_policy("namespaces/older/policy", private=True, owner="user:ann")
    policy = "SELECT bindings, private, hidden_before FROM policies WHERE key = 'older'"
    async with guarded.registry.owner() as connection:
        columns = await connection.fetchval(
            "SELECT string_agg(quote_ident(column_name), ', ' ORDER BY ordinal_position)"
            "  FROM information_schema.columns WHERE table_name = 'namespaces' AND is_generated = 'NEVER'"
        )
        await connection.execute(
            "CREATE TEMPORARY TABLE older AS SELECT * FROM namespaces WHERE namespace_id = 'older'"
        )
        await connection.execute("DELETE FROM namespaces WHERE namespace_id = 'older'")
        found = [tuple(row)[:2] for row in await connection.fetch(policy)]
        assert found == [("{}", True)]
        await connection.execute("UPDATE older SET revision = 1000")
        await connection.execute(f"INSERT INTO namespaces ({columns}) SELECT {columns} FROM older")  # noqa: S608
        renewed = [("{}", False, 1000)]
        assert [tuple(row) for row in await connection.fetch(policy)] == renewed
        await connection.execute("DELETE FROM namespaces WHERE namespace_id = 'older'")
        assert [tuple(row) for row in await connection.fetch(policy)] == renewed


async def test_a_new_namespace_does_not_get_the_bytes_of_an_old_one(guarded: Guarded) -> None:
    """
    Who reads a namespace sees what its versions pin: the name of a deleted one is not free before the asset service has
    released its last pin. Neither are others' pins waited for.
    """
    await guarded.namespace("bytes", "ann")
    registry, ann = guarded.registry, guarded.as_("ann")
    model = models_pb2.CreateModelRequest(parent="namespaces/bytes", model_id="m")
    name = (await registry.models.CreateModel(model, **ann)).name
    draft = versions_pb2.Version(artifacts=[versions_pb2.Artifact(path="w", sha256=SHA, size_bytes=1)])
    await registry.versions.CreateVersion(versions_pb2.CreateVersionRequest(parent=name, version=draft), **ann)
    await registry.models.DeleteModel(models_pb2.DeleteModelRequest(name=name), **ann)
    await registry.models.PurgeModel(models_pb2.PurgeModelRequest(name=name), **ann)
    gone = namespaces_pb2.DeleteNamespaceRequest(name="namespaces/bytes")
    await registry.namespaces.DeleteNamespace(gone, **ann)
    with Failing() as failed:
        await guarded.namespace("bytes", "gil")
    assert (failed.code, failed.reason) == (grpc.StatusCode.ALREADY_EXISTS, "NAMESPACE_EXISTS")
    await guarded.namespace("byte", "gil")
    async with registry.owner() as connection:
        # There is no asset service that would confirm it.
        await connection.execute("DELETE FROM unpins WHERE owner LIKE 'namespaces/bytes/%'")
    await guarded.namespace("bytes", "gil")


async def test_who_creates_a_namespace_owns_it(guarded: Guarded) -> None:
    """
    The creator of a namespace is its owner; another caller is not.
    """
    await guarded.namespace("cats", "carl")
    carl, request = guarded.as_("carl"), policies_pb2.GetPolicyRequest(name="namespaces/cats/policy")
    found = await guarded.registry.policies.GetPolicy(request, **carl)
    assert [(each.role, list(each.members)) for each in found.bindings] == [(POLICY.ROLE_OWNER, ["user:carl"])]
    wanted = policies_pb2.TestPermissionsRequest(resource="namespaces/cats")
    held = await guarded.registry.policies.TestPermissions(wanted, **carl)
    assert list(held.permissions) == sorted(PERMISSIONS)
    held = await guarded.registry.policies.TestPermissions(wanted, **guarded.as_("dora"))
    assert "policies.write" not in held.permissions


async def test_a_revocation_holds_for_its_revision(guarded: Guarded) -> None:
    """
    Who has seen the revision of a policy is decided about by it.
    """
    await guarded.namespace("dogs")
    name = "namespaces/dogs/policy"
    get = namespaces_pb2.GetNamespaceRequest(name="namespaces/dogs")
    for _ in range(5):
        await guarded.set_policy(name, private=True, reader="user:dora")
        await guarded.registry.namespaces.GetNamespace(get, **guarded.as_("dora"))
        root = guarded.as_("root", "admin")
        gone = policies_pb2.SetPolicyRequest(policy=POLICY(name=name, private=True))
        revision = (await guarded.registry.policies.SetPolicy(gone, **root)).revision
        metadata = [*guarded.as_("dora")["metadata"], ("x-min-revision", str(revision))]
        with Failing() as failed:
            await guarded.registry.namespaces.GetNamespace(get, metadata=metadata)
        assert failed.reason == "NAMESPACE_NOT_FOUND"


async def test_the_first_policy_waits_for_moves(shared: Registry) -> None:
    """
    A move of a protected alias is decided by the policies as they are until it is committed, also where the namespace
    has none yet: its first policy waits for moves that hold the namespace.
    """
    await shared.namespaces.CreateNamespace(namespaces_pb2.CreateNamespaceRequest(namespace_id="unruled"))
    request = policies_pb2.SetPolicyRequest(policy=POLICY(name="namespaces/unruled/policy"))
    waits = "SELECT count(*) FROM pg_stat_activity WHERE pg_backend_pid() = ANY(pg_blocking_pids(pid))"
    async with shared.owner() as connection:
        async with connection.transaction():
            await connection.execute("SELECT FROM namespaces WHERE namespace_id = 'unruled' FOR SHARE")
            setting = asyncio.ensure_future(shared.policies.SetPolicy(request))
            while not setting.done() and not await connection.fetchval(waits):
                await connection.execute("SELECT pg_stat_clear_snapshot()")
                await asyncio.sleep(0.01)
            assert not setting.done()
        await setting


class OneChange:
    """
    A change stream with one change.

    Args:
        revision: the change.
    """

    def __init__(self, revision: Revision) -> None:
        self._revision = revision

    async def watch(self, _start: int, _prefix: str, _heartbeat: float) -> AsyncIterator[Revision]:
        """
        The change, and no more.
        """
        yield self._revision


async def test_changes_are_told_by_the_policies_of_their_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Whether a watcher is told of a change is decided by policies that are at least of its revision: a change after a
    revocation is not told while the revocation is still to be read.
    """
    monkeypatch.setattr(visibility, "identity", lambda: Identity("ann", frozenset(), float("inf")))
    policies = Policies()
    reader = Bindings({"user:ann": Role.READER})
    policies.apply({"cats": reader, "dogs": reader}, complete=True)
    policies.heard(1, time.monotonic())
    changes = tuple(Change(f"namespaces/{each}/models/m", ChangeKind.UPDATED) for each in ("cats", "dogs"))
    feed: Any = OneChange(Revision(2, datetime.now(UTC), changes))
    context: Any = None
    told = ChangeService(feed, visibility.Visibility(policies)).WatchChanges(changes_pb2.WatchChangesRequest(), context)
    first = asyncio.ensure_future(anext(aiter(told)))
    await asyncio.sleep(0)
    policies.apply({"cats": None})
    policies.heard(2, time.monotonic())
    assert [each.resource for each in (await first).revision.changes] == ["namespaces/dogs/models/m"]


async def test_a_deleted_namespace_leaves_no_policy(guarded: Guarded) -> None:
    """
    Another namespace of the same name does not inherit the policy.
    """
    await guarded.namespace("fish", "fay")
    fay = guarded.as_("fay")
    await guarded.registry.namespaces.DeleteNamespace(
        namespaces_pb2.DeleteNamespaceRequest(name="namespaces/fish"), **fay
    )
    await guarded.namespace("fish", "gil")
    with Failing() as failed:
        await guarded.registry.namespaces.DeleteNamespace(
            namespaces_pb2.DeleteNamespaceRequest(name="namespaces/fish"), **fay
        )
    assert failed.code is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize(
    ("policy", "field"),
    [
        (POLICY(name="namespaces/default"), "policy.name"),
        (POLICY(name="policy", private=True), "policy.private"),
        (POLICY(name="policy", bindings=[POLICY.Binding(members=["everyone"])]), "policy.bindings[0].role"),
        (POLICY(name="policy", bindings=[POLICY.Binding(role=POLICY.ROLE_READER, members=["ann"])]), "policy.bindings"),
        (
            POLICY(name="policy", bindings=[POLICY.Binding(role=POLICY.ROLE_READER, members=["user:"])]),
            "policy.bindings",
        ),
        (
            POLICY(name="policy", bindings=[POLICY.Binding(role=POLICY.ROLE_READER, members=["user:a\nb"])]),
            "policy.bindings",
        ),
        (
            POLICY(name="policy", bindings=[POLICY.Binding(role=POLICY.ROLE_READER, members=["user:" + "x" * 400])]),
            "policy.bindings",
        ),
        (
            POLICY(
                name="policy",
                bindings=[POLICY.Binding(role=POLICY.ROLE_READER, members=[f"user:{n}" for n in range(1001)])],
            ),
            "policy.bindings",
        ),
    ],
)
async def test_bad_policies(shared: Registry, policy: policies_pb2.Policy, field: str) -> None:
    """
    An invalid policy is rejected with its field.
    """
    with Failing() as failed:
        await shared.policies.SetPolicy(policies_pb2.SetPolicyRequest(policy=policy))
    assert failed.code is grpc.StatusCode.INVALID_ARGUMENT
    assert list(failed.fields) == [field]


async def test_etags(shared: Registry) -> None:
    """
    A policy that has changed since it was read is not overwritten, nor one that was first written since; the audit log
    has every change.
    """
    await shared.namespaces.CreateNamespace(namespaces_pb2.CreateNamespaceRequest(namespace_id="etags"))
    name = "namespaces/etags/policy"
    first = await shared.policies.GetPolicy(policies_pb2.GetPolicyRequest(name=name))
    assert (first.revision, first.etag, len(first.bindings)) == (0, '"r0"', 0)
    policy = POLICY(name=name, bindings=[POLICY.Binding(role=POLICY.ROLE_READER, members=["user:a"])])
    policy.etag = first.etag
    made = await shared.policies.SetPolicy(policies_pb2.SetPolicyRequest(policy=policy))
    with Failing() as failed:
        await shared.policies.SetPolicy(policies_pb2.SetPolicyRequest(policy=policy))
    assert failed.reason == "ETAG_MISMATCH"
    again = await shared.policies.SetPolicy(policies_pb2.SetPolicyRequest(policy=POLICY(name=name, etag=made.etag)))
    assert again.revision > made.revision
    with Failing() as failed:
        await shared.policies.SetPolicy(policies_pb2.SetPolicyRequest(policy=POLICY(name=name, etag=made.etag)))
    assert failed.reason == "ETAG_MISMATCH"
    listed = await shared.audit.ListAuditEntries(audit_pb2.ListAuditEntriesRequest(resource_prefix=name))
    assert [each.action for each in listed.entries] == ["SetPolicy", "SetPolicy"]
