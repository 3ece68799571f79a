"""
Bad input on every RPC of the suite: INVALID_ARGUMENT, the field named (through the gateway), nothing written.
"""

from __future__ import annotations

import asyncio
import json
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import asyncpg
import grpc
import pytest
from google.protobuf import field_mask_pb2
from google.protobuf.message import Message

import modelyard
from embedded.postgres import Postgres
from embedded.stack import Stack
from modelyard.cdn.v1 import assets_pb2
from modelyard.changes.v1 import changes_pb2
from modelyard.registry.v1 import (
    aliases_pb2,
    evaluations_pb2,
    imports_pb2,
    models_pb2,
    namespaces_pb2,
    versions_pb2,
)
from services.registry.tests.server import running

LONG = "x" * 1_000_000
#: Of one field of each kind: more than the 4 MiB that gRPC allows by default.
HUGE = "x" * 10_000_000
NAMESPACE = "bad-input"
PARENT = f"namespaces/{NAMESPACE}"
MODEL = f"{PARENT}/models/bad-input"
VERSION = f"{MODEL}/versions/1"
DIGEST = "a" * 64
# A name that is not there is not bad input; these are.
MALFORMED = (
    "",
    "namespaces",
    "namespaces/",
    "namespaces/default/models/",
    "namespaces/a b/models/x",
    "x/y",
    "namespaces/ü",
)


@dataclass(frozen=True)
class Case:
    """
    A call that must be refused, and the field that the answer must name.

    Args:
        assets: whether the asset service answers it, not the registry.
    """

    id: str
    call: Callable[[modelyard.Client], object]
    field: str
    assets: bool = False


def unary(stub: str, method: str, request: Message, field: str, note: str) -> Case:
    def call(yard: modelyard.Client) -> object:
        return getattr(getattr(yard, stub), method)(request)

    return Case(f"{method}: {note}", call, field, stub == "assets")


def stream(stub: str, method: str, requests: list[Message], field: str, note: str) -> Case:
    def call(yard: modelyard.Client) -> object:
        answer = getattr(getattr(yard, stub), method)(iter(requests))
        return list(answer) if isinstance(answer, Iterator) else answer

    return Case(f"{method}: {note}", call, field, stub == "assets")


def watch(request: changes_pb2.WatchChangesRequest, field: str, note: str) -> Case:
    return Case(f"WatchChanges: {note}", lambda yard: next(iter(yard.changes.WatchChanges(request, timeout=10))), field)


def download(request: assets_pb2.DownloadRequest, field: str, note: str) -> Case:
    return Case(f"Download: {note}", lambda yard: list(yard.assets.Download(request)), field, True)


def names() -> Iterator[Case]:
    for bad in MALFORMED:
        note = f"name {bad!r}"
        yield unary("namespaces", "GetNamespace", namespaces_pb2.GetNamespaceRequest(name=bad), "name", note)
        yield unary("models", "GetModel", models_pb2.GetModelRequest(name=bad), "name", note)
        yield unary("versions", "GetVersion", versions_pb2.GetVersionRequest(name=bad), "name", note)
        yield unary("versions", "FinalizeVersion", versions_pb2.FinalizeVersionRequest(name=bad), "name", note)
        yield unary("aliases", "GetAlias", aliases_pb2.GetAliasRequest(name=bad), "name", note)
        yield unary("assets", "GetAsset", assets_pb2.GetAssetRequest(name=bad), "name", note)
        yield download(assets_pb2.DownloadRequest(name=bad), "name", note)
        yield unary(
            "models",
            "UpdateModel",
            models_pb2.UpdateModelRequest(
                model=models_pb2.Model(name=bad), update_mask=field_mask_pb2.FieldMask(paths=["owner"])
            ),
            "model.name",
            note,
        )
    for bad in ("", "namespaces", "x/y", "namespaces/a b", "namespaces/default/models", "namespaces/ü"):
        note = f"parent {bad!r}"
        model = models_pb2.Model()
        yield unary(
            "models",
            "CreateModel",
            models_pb2.CreateModelRequest(parent=bad, model_id="x", model=model),
            "parent",
            note,
        )
        yield unary("models", "ListModels", models_pb2.ListModelsRequest(parent=bad), "parent", note)
        yield unary("models", "SearchModels", models_pb2.SearchModelsRequest(parent=bad), "parent", note)
        yield unary(
            "models", "BatchGetModels", models_pb2.BatchGetModelsRequest(parent=bad, names=[MODEL]), "parent", note
        )
        yield unary("versions", "CreateVersion", versions_pb2.CreateVersionRequest(parent=bad), "parent", note)
        yield unary("versions", "ListVersions", versions_pb2.ListVersionsRequest(parent=bad), "parent", note)
        yield unary("aliases", "MoveAliases", aliases_pb2.MoveAliasesRequest(parent=bad), "parent", note)
        yield unary("aliases", "ListAliases", aliases_pb2.ListAliasesRequest(parent=bad), "parent", note)
        yield unary(
            "evaluations", "RecordEvaluations", evaluations_pb2.RecordEvaluationsRequest(parent=bad), "parent", note
        )
        yield unary(
            "evaluations", "ListEvaluations", evaluations_pb2.ListEvaluationsRequest(parent=bad), "parent", note
        )
        yield unary(
            "evaluations",
            "QueryLeaderboard",
            evaluations_pb2.QueryLeaderboardRequest(parent=bad, dataset="d", metric="m"),
            "parent",
            note,
        )
        yield stream("imports", "ImportModels", [imports_pb2.ImportModelsRequest(parent=bad)], "parent", note)


def pages() -> Iterator[Case]:
    requests: list[tuple[str, Message]] = [
        ("namespaces.ListNamespaces", namespaces_pb2.ListNamespacesRequest()),
        ("models.ListModels", models_pb2.ListModelsRequest(parent=PARENT)),
        ("models.SearchModels", models_pb2.SearchModelsRequest(parent=PARENT)),
        ("versions.ListVersions", versions_pb2.ListVersionsRequest(parent=MODEL)),
        ("aliases.ListAliases", aliases_pb2.ListAliasesRequest(parent=MODEL)),
        ("evaluations.ListEvaluations", evaluations_pb2.ListEvaluationsRequest(parent=MODEL)),
        (
            "evaluations.QueryLeaderboard",
            evaluations_pb2.QueryLeaderboardRequest(parent=PARENT, dataset="d", metric="m"),
        ),
        ("assets.ListAssets", assets_pb2.ListAssetsRequest()),
    ]
    for method, request in requests:
        stub, _, name = method.partition(".")
        for field, value in (("page_size", -1), ("page_token", "garbage"), ("page_token", LONG)):
            bad = type(request)()
            bad.CopyFrom(request)
            setattr(bad, field, HUGE if value is LONG and name == "ListModels" else value)
            yield unary(stub, name, bad, field, f"{field} {str(value)[:10]}")


def values() -> Iterator[Case]:
    def create(model_id: str = "x", **fields: Any) -> models_pb2.CreateModelRequest:
        return models_pb2.CreateModelRequest(parent=PARENT, model_id=model_id, model=models_pb2.Model(**fields))

    for bad in ("", "a b", "-a", "a/b", "ü", "x" * 129, LONG):
        yield unary("models", "CreateModel", create(bad), "model_id", f"model_id {bad[:10]!r}")
        namespace = namespaces_pb2.CreateNamespaceRequest(namespace_id=bad)
        yield unary("namespaces", "CreateNamespace", namespace, "namespace_id", f"namespace_id {bad[:10]!r}")
    for name in ("display_name", "description", "owner", "task", "framework", "license"):
        text = HUGE if name == "description" else LONG
        yield unary("models", "CreateModel", create(**{name: text}), f"model.{name}", f"{len(text) // 10**6} MB {name}")
        yield unary("models", "CreateModel", create(**{name: "a\0b"}), f"model.{name}", f"NUL in {name}")
    yield unary("models", "CreateModel", create(parameter_count=-1), "model.parameter_count", "negative count")
    yield unary("models", "CreateModel", create(labels={"te\nam": "x"}), "model.labels", "label key")
    yield unary("models", "CreateModel", create(labels={"team": LONG}), "model.labels", "1 MB label")
    for mask in (["nonsense"], ["revision"], []):
        request = models_pb2.UpdateModelRequest(
            model=models_pb2.Model(name=MODEL), update_mask=field_mask_pb2.FieldMask(paths=mask)
        )
        yield unary("models", "UpdateModel", request, "update_mask", f"mask {mask}")
    yield unary("models", "BatchGetModels", models_pb2.BatchGetModelsRequest(parent=PARENT), "names", "no names")
    yield unary(
        "models", "BatchGetModels", models_pb2.BatchGetModelsRequest(parent=PARENT, names=["x"]), "names", "bad name"
    )
    for bad in ("task =", "nonsense = 1", "(", LONG):
        search = models_pb2.SearchModelsRequest(parent=PARENT, filter=bad)
        yield unary("models", "SearchModels", search, "filter", f"filter {bad[:10]!r}")
        board = evaluations_pb2.QueryLeaderboardRequest(parent=PARENT, dataset="d", metric="m", filter=bad)
        yield unary("evaluations", "QueryLeaderboard", board, "filter", f"filter {bad[:10]!r}")
    yield unary(
        "models", "SearchModels", models_pb2.SearchModelsRequest(parent=PARENT, query=HUGE), "query", "10 MB query"
    )
    order = models_pb2.SearchModelsRequest(parent=PARENT, order_by="nonsense")
    yield unary("models", "SearchModels", order, "order_by", "unknown order")
    for path, sha256, size, field in (
        ("../x", DIGEST, 1, "path"),
        ("", DIGEST, 1, "path"),
        ("a", DIGEST.upper(), 1, "sha256"),
        ("a", DIGEST, -1, "size_bytes"),
    ):
        artifact = versions_pb2.Artifact(path=path, sha256=sha256, size_bytes=size)
        creation = versions_pb2.CreateVersionRequest(parent=MODEL, version=versions_pb2.Version(artifacts=[artifact]))
        yield unary(
            "versions", "CreateVersion", creation, f"version.artifacts[0].{field}", f"artifact {field} {path!r}"
        )
    for alias, version, field in (("pr/od", VERSION, "moves[0].alias_id"), ("prod", "x", "moves[0].version")):
        move = aliases_pb2.MoveAliasesRequest.Move(alias_id=alias, version=version)
        yield unary("aliases", "MoveAliases", aliases_pb2.MoveAliasesRequest(parent=MODEL, moves=[move]), field, field)
    yield unary("aliases", "MoveAliases", aliases_pb2.MoveAliasesRequest(parent=MODEL), "moves", "no moves")
    for name, value in (("dataset", " d"), ("metric", ""), ("value", float("nan")), ("version", "x")):
        good: dict[str, Any] = {"version": VERSION, "dataset": "d", "metric": "m", "value": 1.0}
        evaluation = evaluations_pb2.Evaluation(**{**good, name: value})
        record = evaluations_pb2.RecordEvaluationsRequest(parent=PARENT, evaluations=[evaluation])
        yield unary("evaluations", "RecordEvaluations", record, f"evaluations[0].{name}", f"{name} {value!r}")
    nothing = evaluations_pb2.RecordEvaluationsRequest(parent=PARENT)
    yield unary("evaluations", "RecordEvaluations", nothing, "evaluations", "no evaluations")
    item = imports_pb2.ImportModelsRequest.Item(model_id="a b")
    bulk = imports_pb2.ImportModelsRequest(parent=PARENT, items=[item])
    yield stream("imports", "ImportModels", [bulk], "items[0].model_id", "bad id")
    yield watch(changes_pb2.WatchChangesRequest(start_revision=-1), "start_revision", "negative revision")
    yield watch(changes_pb2.WatchChangesRequest(resource_prefix="x y"), "resource_prefix", "malformed prefix")
    yield unary("assets", "FindMissing", assets_pb2.FindMissingRequest(), "sha256", "no digests")
    yield unary("assets", "FindMissing", assets_pb2.FindMissingRequest(sha256=["x"]), "sha256", "bad digest")
    yield download(assets_pb2.DownloadRequest(name=f"assets/{DIGEST}", offset=-1), "offset", "negative offset")
    header = assets_pb2.UploadRequest(header=assets_pb2.UploadRequest.Header(sha256="x", size_bytes=1))
    yield stream("assets", "Upload", [header], "header.sha256", "bad digest")
    negative = assets_pb2.UploadRequest(header=assets_pb2.UploadRequest.Header(sha256=DIGEST, size_bytes=-1))
    yield stream("assets", "Upload", [negative], "header.size_bytes", "negative size")
    chunk = assets_pb2.UploadRequest(chunk=assets_pb2.Chunk(data=b"x"))
    yield stream("assets", "Upload", [chunk], "header", "no header")


def head(yard: modelyard.Client) -> int:
    """
    The newest revision: it moves with every write.
    """
    event = next(iter(yard.changes.WatchChanges(changes_pb2.WatchChangesRequest(), timeout=10)))
    return event.heartbeat.applied_revision


def written(yard: modelyard.Client, since: int) -> list[str]:
    """
    What was written after a revision: in the namespace of these tests, and namespaces that are called as no other
    test's are. Other tests write to the same suite meanwhile.
    """
    end, found = head(yard), list[str]()
    if end == since:
        return found
    for event in yard.changes.WatchChanges(changes_pb2.WatchChangesRequest(start_revision=since + 1), timeout=30):
        found += [change.resource for change in event.revision.changes]
        if max(event.revision.revision, event.heartbeat.applied_revision) >= end:
            break
    foreign = re.compile(r"namespaces/(?!bad-input\b)[a-z0-9][a-z0-9-]{0,62}(/.*)?")
    return [name for name in found if not foreign.fullmatch(name)]


def prepare(yard: modelyard.Client) -> None:
    """
    Create a model with a version, in the namespace of these tests.
    """
    yard.namespaces.CreateNamespace(namespaces_pb2.CreateNamespaceRequest(namespace_id=NAMESPACE))
    yard.models.CreateModel(
        models_pb2.CreateModelRequest(parent=PARENT, model_id="bad-input", model=models_pb2.Model())
    )
    yard.versions.CreateVersion(versions_pb2.CreateVersionRequest(parent=MODEL, version=versions_pb2.Version()))


@pytest.fixture(scope="module")
def prepared(yard: modelyard.Client) -> modelyard.Client:
    """
    A client of the run's suite.
    """
    prepare(yard)
    return yard


CASES = [*names(), *pages(), *values()]


def refused(case: Case, client: modelyard.Client) -> None:
    """
    The call answers INVALID_ARGUMENT with a violation that names the field.
    """
    with pytest.raises(grpc.RpcError) as error:
        case.call(client)
    problem = modelyard.explain(error.value)
    assert problem.code == grpc.StatusCode.INVALID_ARGUMENT, (case.id, problem)
    assert any(violation.field.startswith(case.field) for violation in problem.violations), (case.id, problem)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_bad_input_is_refused(prepared: modelyard.Client, case: Case) -> None:
    """
    Bad input answers INVALID_ARGUMENT with a violation that names the field. It writes nothing: see
    `test_bad_input_writes_nothing`.
    """
    refused(case, prepared)


async def content(database: str) -> dict[str, tuple[int, str]]:
    """
    The number of rows of each table of a database, and a digest of them.
    """
    connection = await asyncpg.connect(database)
    try:
        tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        digest = "coalesce(md5(string_agg(t::text, chr(10) ORDER BY t::text)), '')"
        query = f"SELECT count(*) AS rows, {digest} AS digest FROM {{}} t"  # noqa: S608 - names of our own tables
        rows = {name: (await connection.fetch(query.format(name)))[0] for (name,) in tables}
        return {name: (row["rows"], row["digest"]) for name, row in rows.items()}
    finally:
        await connection.close()


async def test_bad_input_writes_nothing(postgres: Postgres, new_database: Callable[[], str]) -> None:
    """
    On a registry of its own, whose database nobody else writes to, all bad requests leave every table as it was.
    """
    url = new_database()
    owner = postgres.url(url.partition("@/")[2].partition("?")[0])
    async with running(url) as registry:
        with modelyard.connect(f"127.0.0.1:{registry.port}") as client:
            await asyncio.to_thread(prepare, client)
            before = await content(owner)
            for case in CASES:
                if not case.assets:
                    await asyncio.to_thread(refused, case, client)
            assert await content(owner) == before
    assert before["models"][0] == before["versions"][0] == 1


def test_a_page_token_belongs_to_its_query(prepared: modelyard.Client) -> None:
    """
    A page token of one query is refused by another, and the field is named.
    """
    for number in range(3):
        prepared.models.CreateModel(
            models_pb2.CreateModelRequest(parent=PARENT, model_id=f"page-{number}", model=models_pb2.Model())
        )
    page = prepared.models.ListModels(models_pb2.ListModelsRequest(parent=PARENT, page_size=1))
    assert page.next_page_token
    for request in (
        models_pb2.ListModelsRequest(parent=PARENT, page_token=page.next_page_token, show_deleted=True),
        models_pb2.SearchModelsRequest(parent=PARENT, page_token=page.next_page_token),
    ):
        method = (
            prepared.models.ListModels
            if isinstance(request, models_pb2.ListModelsRequest)
            else prepared.models.SearchModels
        )
        with pytest.raises(grpc.RpcError) as refused:
            method(request)  # type: ignore[arg-type]
        problem = modelyard.explain(refused.value)
        assert problem.code == grpc.StatusCode.INVALID_ARGUMENT
        assert [violation.field for violation in problem.violations] == ["page_token"]


def post(stack: Stack, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(
        f"http://{stack.gateway}{path}", data=body, headers={"content-type": "application/json"}, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - the address is our own gateway's
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        text = error.read()
        return error.code, json.loads(text) if text.startswith(b"{") else {"message": text.decode()}


@pytest.mark.parametrize(
    "body",
    [
        b'{"owner": "\xff\xfe"}',
        b'{"owner": "\xc3"}',
        b"{",
        b'{"parameter_count": "x"}',
        b"[" * 10_000,
    ],
    ids=["not UTF-8", "cut UTF-8", "cut JSON", "wrong type", "deep"],
)
def test_bad_json_is_refused(prepared: modelyard.Client, stack: Stack, body: bytes) -> None:
    """
    JSON that does not parse answers 400 and INVALID_ARGUMENT with a violation that names the body, and writes nothing.
    """
    before = head(prepared)
    status, answer = post(stack, "/v1/namespaces/bad-input/models?model_id=json", body)
    assert (status, answer["code"]) == (400, grpc.StatusCode.INVALID_ARGUMENT.value[0]), answer
    (bad_request,) = answer["details"]
    assert bad_request["fieldViolations"][0]["field"] == "body"
    assert not written(prepared, before)


def test_a_long_text_in_json_names_the_field(prepared: modelyard.Client, stack: Stack) -> None:
    """
    A text of nearly 2 MiB in JSON reaches the service and is refused by name.
    """
    body = json.dumps({"description": HUGE[:2_000_000]}).encode()
    status, answer = post(stack, "/v1/namespaces/bad-input/models?model_id=json", body)
    assert status == 400, answer
    (bad_request,) = (detail for detail in answer["details"] if detail["@type"].endswith("BadRequest"))
    assert [violation["field"] for violation in bad_request["fieldViolations"]] == ["model.description"]
