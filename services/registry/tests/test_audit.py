"""
The audit over a real channel, and under the database's real roles.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import grpc
import pytest
from google.protobuf.json_format import MessageToDict

from embedded.postgres import owner
from modelyard.registry.v1 import audit_pb2 as pb
from modelyard.registry.v1 import models_pb2
from services.registry.tests.calls import (
    DEFAULT,
    add_version,
    create,
    move,
    record,
    result,
    sql,
    update,
)
from services.registry.tests.server import Failing, Registry
from services.registry.tests.test_tags import WRITES

_COPIES = """
INSERT INTO audit (revision, ordinal, time, actor, action, resource, request_id, before, after, octets)
SELECT revision, ordinal + n, time, actor, action, resource, request_id, before, after, octets
  FROM audit, generate_series(1, $1::integer) AS n WHERE action = 'RecordEvaluations'
"""


async def entries(registry: Registry, size: int = 0, **request: Any) -> list[pb.AuditEntry]:
    """
    All entries that a query finds, page after page.
    """
    found: list[pb.AuditEntry] = []
    token = ""
    while True:
        page = await registry.audit.ListAuditEntries(
            pb.ListAuditEntriesRequest(page_size=size, page_token=token, **request)
        )
        found += page.entries
        token = page.next_page_token
        if not token:
            return found


async def test_who_did_what(registry: Registry) -> None:
    """
    An entry states who did what to which resource, its images before and after, the request id and the revision.
    """
    request = models_pb2.CreateModelRequest(
        parent=DEFAULT, model_id="m", model=models_pb2.Model(owner="ann", parameter_count=7), request_id="r-1"
    )
    made = await registry.models.CreateModel(request, metadata=(("x-modelyard-subject", "ann@example.org"),))
    await update(registry, "m", models_pb2.Model(owner="bob"), ["owner"])
    newest, oldest, *_ = await entries(registry)
    assert (oldest.revision, oldest.actor, oldest.action) == (made.revision, "ann@example.org", "CreateModel")
    assert (oldest.resource, oldest.request_id) == (made.name, "r-1")
    assert not oldest.HasField("before")
    assert MessageToDict(oldest.after)["parameter_count"] == 7
    assert abs(oldest.time.ToDatetime(UTC) - datetime.now(UTC)) < timedelta(minutes=1)
    assert (newest.actor, newest.action) == ("anonymous", "UpdateModel")
    assert (newest.before["owner"], newest.after["owner"]) == ("ann", "bob")


async def test_large_numbers_are_exact(registry: Registry) -> None:
    """
    An integer that a JSON number cannot hold is text in an image, to the last digit.
    """
    await create(registry, "m", models_pb2.Model(parameter_count=2**53 + 1))
    (entry,) = await entries(registry, resource_prefix=f"{DEFAULT}/models/m")
    assert entry.after["parameter_count"] == str(2**53 + 1)


async def test_pages_fit_a_message(registry: Registry) -> None:
    """
    A page holds as many entries as fit the default message size of clients; an entry that is too large for any page
    comes without its images and says so.
    """
    await create(registry, "m")
    await add_version(registry, "m")
    await record(registry, *(result("m", 1, f"d{n}", "m", float(n)) for n in range(2000)))
    # More of the same size, which need not be recorded.
    await sql(registry, _COPIES, 44)
    await record(registry, *(result("m", 1, f"d{n}", "m", float(n)) for n in range(10_000)))
    request = pb.ListAuditEntriesRequest(page_size=1000, resource_prefix=f"{DEFAULT}/models/m")
    assert (await registry.audit.ListAuditEntries(request)).next_page_token, "a page held all of them"
    found = await entries(registry, size=1000, resource_prefix=f"{DEFAULT}/models/m")
    assert [len(each.after["evaluations"]) for each in found[1:46]] == [2000] * 45  # type: ignore[arg-type]
    assert found[0].shortened or len(found[0].after["evaluations"]) == 10_000  # type: ignore[arg-type]


async def test_every_write_is_audited_once(registry: Registry) -> None:
    """
    Every mutation of the contract leaves an entry for each resource that its change event names, with its revision.
    """
    await create(registry, "m")
    await create(registry, "n")
    await add_version(registry, "m")
    await add_version(registry, "n")
    for write in WRITES:
        before = await sql(registry, "SELECT value FROM revision")
        await write(registry)
        after = await sql(registry, "SELECT value FROM revision")
        for revision in range(before + 1, after + 1):
            audited = await sql(
                registry, "SELECT array_agg(resource ORDER BY resource) FROM audit WHERE revision = $1", revision
            )
            told = await sql(
                registry, "SELECT ARRAY(SELECT unnest(resources) ORDER BY 1) FROM changes WHERE revision = $1", revision
            )
            assert audited == told
            # A model that replaces a deleted one is purged and created.
            kinds = "count(*) - count(DISTINCT (resource, before IS NULL, after IS NULL))"
            twice = await sql(registry, f"SELECT {kinds} FROM audit WHERE revision = $1", revision)  # noqa: S608
            assert twice == 0


async def test_filters(registry: Registry) -> None:
    """
    Entries are filtered by resource, including everything below it but no similarly named one, by actor, by action, by
    time, and by all of them together.
    """
    for model in ("m", "mm"):
        await create(registry, model)
        await add_version(registry, model)
    await move(registry, "m", ("production", 1))
    await record(registry, result("m", 1, "d", "top1", 1.0))
    below = await entries(registry, resource_prefix=f"{DEFAULT}/models/m")
    assert {each.resource for each in below} == {
        f"{DEFAULT}/models/m{tail}" for tail in ("", "/versions/1", "/versions/1/evaluations", "/aliases/production")
    }
    assert [each.action for each in await entries(registry, action="MoveAliases")] == ["MoveAliases"]
    assert len(await entries(registry, actor="migration")) == 1
    assert len(await entries(registry, actor="anonymous", action="CreateModel")) == 2
    middle = below[1].time
    older, newer = await entries(registry, end_time=middle), await entries(registry, start_time=middle)
    assert {each.revision for each in older} | {each.revision for each in newer} == {
        each.revision for each in await entries(registry)
    }
    assert not {each.revision for each in older} & {each.revision for each in newer}
    both: dict[str, Any] = {"resource_prefix": f"{DEFAULT}/models/mm", "action": "CreateVersion", "actor": "anonymous"}
    told = {each.resource for each in await entries(registry, **both)}
    assert told == {f"{DEFAULT}/models/mm", f"{DEFAULT}/models/mm/versions/1"}
    assert await entries(registry, resource_prefix="namespaces/none") == []


async def test_bad_requests(shared: Registry) -> None:
    """
    An invalid request is rejected, and the field is named.
    """
    now = datetime.now(UTC)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"resource_prefix": "//"}, "resource_prefix"),
        ({"start_time": now, "end_time": now}, "start_time"),
        ({"page_size": -1}, "page_size"),
        ({"page_token": "x"}, "page_token"),
        ({"actor": "x" * 300}, "actor"),
    ]
    for request, field in wrong:
        with Failing() as failed:
            await shared.audit.ListAuditEntries(pb.ListAuditEntriesRequest(**request))
        assert failed.code is grpc.StatusCode.INVALID_ARGUMENT
        assert list(failed.fields) == [field]


async def test_pages_while_others_write(registry: Registry) -> None:
    """
    The newest first, each entry once, while new ones come: those are not in the pages of an earlier first page.
    """
    for number in range(25):
        await create(registry, f"m{number}")
    writing = asyncio.gather(*(create(registry, f"later{number}") for number in range(40)))
    found = await entries(registry, size=3, action="CreateModel")
    await writing
    revisions = [each.revision for each in found]
    assert revisions == sorted(set(revisions), reverse=True)
    assert {f"{DEFAULT}/models/m{number}" for number in range(25)} <= {each.resource for each in found}


async def test_an_entry_larger_than_an_answer(registry: Registry) -> None:
    """
    An entry whose images would not fit comes without them and says so; other entries are not affected.
    """
    await create(registry, "m")
    await add_version(registry, "m")
    for _ in range(2):
        await record(registry, *(result("m", 1, f"d{n:063}", "m" * 64, (n + 1) * 1e-200) for n in range(10_000)))
    await create(registry, "n")
    found = await entries(registry)
    large = [each for each in found if each.action == "RecordEvaluations"]
    assert [each.shortened for each in large] == [True, True]
    assert not any(each.HasField("after") for each in large)
    assert not any(each.shortened for each in found if each not in large)


@pytest.mark.parametrize("role", ["service", "owner"])
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET actor = 'x'",
        "DELETE FROM audit",
        "DELETE FROM audit WHERE revision = -1",
        "TRUNCATE audit",
    ],
)
async def test_append_only(shared: Registry, role: str, statement: str) -> None:
    """
    Entries cannot be changed or deleted: the service's role lacks the privilege, and a trigger stops the owner.
    """
    database = owner(shared.database) if role == "owner" else shared.database
    connection = await asyncpg.connect(database)
    try:
        before = await connection.fetchval("SELECT count(*) FROM audit")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)
        assert await connection.fetchval("SELECT count(*) FROM audit") == before
    finally:
        await connection.close()


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM revision",
        "UPDATE changes SET resources = '{}'",
        "UPDATE evaluations SET value = 1",
        "UPDATE best SET high = 1",
        "DELETE FROM boards",
        "SELECT count_results('{a}', '{b}', '{c}', '{1}')",
        "SELECT rank_again('{1}', '{b}', '{c}')",
        "UPDATE cards SET markdown = ''",
        "DELETE FROM aliases",
        "SELECT purge_part('evaluations', 0, 1)",
        "SELECT purge_part('audit', 0, 1)",
        "DROP TABLE audit",
        "ALTER TABLE audit DISABLE TRIGGER ALL",
        "CREATE TABLE mine (x int)",
        "DELETE FROM schema_migrations",
    ],
)
async def test_the_service_may_no_more_than_it_has_to(shared: Registry, statement: str) -> None:
    """
    The service's role cannot rewrite history, nor change the schema.
    """
    connection = await asyncpg.connect(shared.database)
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)
    finally:
        await connection.close()
