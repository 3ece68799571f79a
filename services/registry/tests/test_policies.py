"""
Access by namespace: what a policy allows, and that what a caller may not read does not exist.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from modelyard.changes.v1 import changes_pb2
from modelyard.contracts import permissions, services
from modelyard.registry.v1 import (
    aliases_pb2,
    audit_pb2,
    cards_pb2,
    deployments_pb2,
    evaluations_pb2,
    imports_pb2,
    models_pb2,
    namespaces_pb2,
    policies_pb2,
    versions_pb2,
)
from services.chassis.access.roles import PERMISSIONS, Role
from services.registry.tests.server import Failing, Failure, Registry, failure_of, running
from tests.tokens import Issuer, settings

ALL = "registry.read registry.write"
POLICY = policies_pb2.Policy
SHA = "a" * 64
REGISTRY_POLICY = policies_pb2.GetPolicyRequest(name="policy")


@dataclass
class Guarded:
    """
    A registry with access control on, and who issues its tokens.
    """

    registry: Registry
    issuer: Issuer

    def as_(self, subject: str, scope: str = ALL, **claims: Any) -> dict[str, Any]:
        """
        The arguments of a call of *subject*.
        """
        return {"metadata": [("authorization", f"Bearer {self.issuer.mint(scope, sub=subject, **claims)}")]}

    async def set_policy(self, name: str, *, private: bool = False, **roles: str) -> None:
        """
        Set a policy, with members separated by spaces, and wait until it holds.
        """
        bindings = [
            POLICY.Binding(role=POLICY.Role.Value(f"ROLE_{role.upper()}"), members=members.split())
            for role, members in roles.items()
        ]
        policy = POLICY(name=name, bindings=bindings, private=private)
        request = policies_pb2.SetPolicyRequest(policy=policy)
        await self.seen((await self.registry.policies.SetPolicy(request, **self.as_("root", "admin"))).revision)

    async def seen(self, revision: int) -> None:
        """
        Wait until decisions are those of a revision.
        """
        metadata = [*self.as_("root", "admin")["metadata"], ("x-min-revision", str(revision))]
        await self.registry.namespaces.ListNamespaces(namespaces_pb2.ListNamespacesRequest(), metadata=metadata)

    async def namespace(self, name: str, owner: str = "root") -> None:
        """
        Create a namespace.
        """
        request = namespaces_pb2.CreateNamespaceRequest(namespace_id=name)
        made = await self.registry.namespaces.CreateNamespace(request, **self.as_(owner))
        await self.seen(made.revision)


@pytest.fixture(scope="module")
async def guarded(new_database: Callable[[], str], tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Guarded]:
    """
    A registry with access control on, on a database of its own.
    """
    issuer = Issuer(tmp_path_factory.mktemp("keys") / "jwks.json")
    async with running(new_database(), **settings(issuer)) as registry:
        found = Guarded(registry, issuer)
        async with asyncio.timeout(10):
            # Until the policies have been read.
            while isinstance(await ask(found, "GetPolicy", REGISTRY_POLICY, **found.as_("ann")), Failure):
                await asyncio.sleep(0.01)
        yield found


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
            version=versions_pb2.Version(name=version), update_mask=FieldMask(paths=["stage"])
        ),
        "FinalizeVersion": versions_pb2.FinalizeVersionRequest(name=version),
        "FailVersion": versions_pb2.FailVersionRequest(name=version),
        "DeleteVersion": versions_pb2.DeleteVersionRequest(name=version),
        "CopyVersion": versions_pb2.CopyVersionRequest(parent=model, source=version),
        "SearchVersions": versions_pb2.SearchVersionsRequest(parent=parent),
        "FindVersions": versions_pb2.FindVersionsRequest(parent=parent, sha256=SHA),
        "MoveAliases": aliases_pb2.MoveAliasesRequest(
            parent=model, moves=[aliases_pb2.MoveAliasesRequest.Move(alias_id="a", version=version)]
        ),
        "GetAlias": aliases_pb2.GetAliasRequest(name=f"{model}/aliases/a"),
        "ListAliases": aliases_pb2.ListAliasesRequest(parent=model),
        "ListAliasMoves": aliases_pb2.ListAliasMovesRequest(parent=f"{model}/aliases/a"),
        "RollbackAlias": aliases_pb2.RollbackAliasRequest(name=f"{model}/aliases/a"),
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
        assert there == policies_pb2.TestPermissionsResponse()
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
    for name in ("MoveAliases", "UpdateCard", "RecordEvaluations", "CreateDeployment"):
        assert not isinstance(found_ := await ask(guarded, name, found[name], **ann), Failure), found_
    await guarded.set_policy("namespaces/hidden/policy", private=True, owner="user:ann", reader="group:readers")
    return "hidden"


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
    audit = audit_pb2.ListAuditEntriesRequest(page_size=1000)
    for caller, sees in ((guarded.as_("eve", groups=["readers"]), False), (guarded.as_("ann"), True)):
        entries = (await registry.audit.ListAuditEntries(audit, **caller)).entries
        assert any(each.resource.startswith(f"namespaces/{hidden}/") for each in entries) is sees
        assert all(each.resource.startswith(f"namespaces/{hidden}") for each in entries)


async def test_nothing_changes_for_anybody(guarded: Guarded) -> None:
    """
    By the policy that the migration makes, a token may do in every namespace what its scopes allow, but for what
    needed `admin`.
    """
    registry, bob = guarded.registry, guarded.as_("bob")
    await registry.models.CreateModel(models_pb2.CreateModelRequest(parent="namespaces/default", model_id="b"), **bob)
    await registry.models.DeleteModel(models_pb2.DeleteModelRequest(name="namespaces/default/models/b"), **bob)
    with Failing() as failed:
        await registry.models.PurgeModel(models_pb2.PurgeModelRequest(name="namespaces/default/models/b"), **bob)
    assert failed.code is grpc.StatusCode.PERMISSION_DENIED
    root = guarded.as_("root", "admin")
    await registry.models.PurgeModel(models_pb2.PurgeModelRequest(name="namespaces/default/models/b"), **root)


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
    A policy that has changed since it was read is not overwritten; the audit log has every change.
    """
    await shared.namespaces.CreateNamespace(namespaces_pb2.CreateNamespaceRequest(namespace_id="etags"))
    name = "namespaces/etags/policy"
    first = await shared.policies.GetPolicy(policies_pb2.GetPolicyRequest(name=name))
    assert (first.revision, first.etag, len(first.bindings)) == (0, "", 0)
    policy = POLICY(name=name, bindings=[POLICY.Binding(role=POLICY.ROLE_READER, members=["user:a"])])
    made = await shared.policies.SetPolicy(policies_pb2.SetPolicyRequest(policy=policy))
    again = await shared.policies.SetPolicy(policies_pb2.SetPolicyRequest(policy=POLICY(name=name, etag=made.etag)))
    assert again.revision > made.revision
    with Failing() as failed:
        await shared.policies.SetPolicy(policies_pb2.SetPolicyRequest(policy=POLICY(name=name, etag=made.etag)))
    assert failed.reason == "ETAG_MISMATCH"
    listed = await shared.audit.ListAuditEntries(audit_pb2.ListAuditEntriesRequest(resource_prefix=name))
    assert [each.action for each in listed.entries] == ["SetPolicy", "SetPolicy"]
