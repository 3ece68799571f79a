"""
Invalidations: queued, batched, polled, retried, and never lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import grpc
import pytest

from modelyard.cdn.v1 import delivery_pb2 as pb
from services.cdn.store.delivery.cloudfront import CloudFront, CloudFrontSettings
from services.cdn.store.delivery.invalidations import InvalidationStore
from services.cdn.store.delivery.invalidator import Invalidator, InvalidatorLimits
from services.cdn.tests.calls import failure
from services.cdn.tests.delivery.cloudfront import Cloud, clouds
from services.cdn.tests.delivery.yard import Delivery, Place, running, some_bytes
from services.ledger.store.database import Database, DatabaseSettings, open_database

State = pb.Invalidation.State


@pytest.fixture(scope="module")
def shared_cloud() -> Iterator[Cloud]:
    """
    CloudFront for the tests of this module.
    """
    with clouds() as found:
        yield found


@pytest.fixture
def cloud(shared_cloud: Cloud) -> Cloud:
    """
    CloudFront, reset for the test.
    """
    shared_cloud.troubles, shared_cloud.creations, shared_cloud.in_progress = [], [], False
    return shared_cloud


@pytest.fixture
def fresh(new_place: Callable[[], Place]) -> Place:
    """
    A database and a bucket for one test.
    """
    return new_place()


def environ(cloud: Cloud, folder: Path) -> dict[str, str]:
    """
    Settings of a service with a distribution and short intervals.
    """
    key = folder / "key"
    key.touch(0o600)
    key.write_text("test")
    return {
        "MODELYARD_CLOUDFRONT_DISTRIBUTION": cloud.distribution,
        "MODELYARD_CLOUDFRONT_ENDPOINT": cloud.endpoint,
        "MODELYARD_CLOUDFRONT_ACCESS_KEY_FILE": str(key),
        "MODELYARD_CLOUDFRONT_SECRET_KEY_FILE": str(key),
        "MODELYARD_INVALIDATION_INTERVAL_SECONDS": "0",
        "MODELYARD_INVALIDATION_POLL_SECONDS": "0.05",
        "MODELYARD_INVALIDATION_PAUSE_SECONDS": "0.05",
        "MODELYARD_INVALIDATION_ATTEMPTS": "3",
    }


@pytest.fixture
async def delivery(cloud: Cloud, fresh: Place, tmp_path: Path) -> AsyncIterator[Delivery]:
    """
    A delivery service with a distribution.
    """
    async with running(fresh, **environ(cloud, tmp_path)) as found:
        yield found


@pytest.fixture
async def database(fresh: Place) -> AsyncIterator[Database]:
    """
    The database alone: the test runs the invalidators.
    """
    async with open_database(DatabaseSettings(url=fresh.url)) as found:
        yield found


@pytest.fixture
async def edge(cloud: Cloud) -> AsyncIterator[CloudFront]:
    """
    A client of CloudFront, as the service uses it.
    """
    found = CloudFront(CloudFrontSettings(cloud.distribution, cloud.endpoint, "test", "test"))
    yield found
    await found.close()


async def invalidate(delivery: Delivery, *paths: str, request_id: str = "") -> pb.Invalidation:
    """
    Call InvalidatePaths.
    """
    request = pb.InvalidatePathsRequest(paths=paths, request_id=request_id)
    answer: pb.Invalidation = await delivery.stub.InvalidatePaths(request)
    return answer


async def ended(delivery: Delivery, name: str) -> pb.Invalidation:
    """
    The invalidation once it has ended.
    """
    for _ in range(600):
        found: pb.Invalidation = await delivery.stub.GetInvalidation(pb.GetInvalidationRequest(name=name))
        if found.state in {State.STATE_COMPLETED, State.STATE_FAILED}:
            return found
        await asyncio.sleep(0.05)
    pytest.fail(f"the invalidation does not end: {found}")


async def queue(place: Place, count: int, paths: int = 1, star: bool = False) -> None:
    """
    Queue *count* invalidations with the given number of paths.
    """
    await place.sql(
        """
INSERT INTO invalidations (id, state, paths, wildcards, create_time)
SELECT gen_random_uuid(), 'QUEUED', (SELECT array_agg('/' || n || '/' || i || $3) FROM generate_series(1, $2) AS i),
       CASE WHEN $3 = '' THEN 0 ELSE $2 END, now() + n * interval '1 ms' FROM generate_series(1, $1) AS n
""",
        count,
        paths,
        "*" if star else "",
    )


async def states(place: Place) -> dict[str, int]:
    """
    The number of invalidations by state.
    """
    rows = await place.sql("SELECT state, count(*) AS count FROM invalidations GROUP BY state")
    return {row["state"]: row["count"] for row in rows}


async def all_due(place: Place) -> None:
    """
    Make every batch due, as if leases and delays had expired.
    """
    await place.sql("UPDATE invalidations SET due_time = now() WHERE state = 'IN_PROGRESS'")


async def test_an_invalidation_completes(delivery: Delivery, cloud: Cloud) -> None:
    """
    An invalidation is queued, sent to CloudFront with its paths, and completed when CloudFront has.
    """
    queued = await invalidate(delivery, "/static/b*", "/static/a", "/static/a")
    assert (queued.state, list(queued.paths)) == (State.STATE_QUEUED, ["/static/b*", "/static/a"])
    found = await ended(delivery, queued.name)
    assert (found.state, found.failure) == (State.STATE_COMPLETED, "")
    assert found.create_time == queued.create_time
    assert cloud.paths() == [["/static/a", "/static/b*"]]
    listed = cloud.client.list_invalidations(DistributionId=cloud.distribution)["InvalidationList"]
    assert listed["Quantity"] >= 1


async def test_it_is_in_progress_until_cloudfront_is_done(delivery: Delivery, cloud: Cloud) -> None:
    """
    CloudFront is polled until the invalidation is complete.
    """
    cloud.in_progress = True
    queued = await invalidate(delivery, "/a")
    for _ in range(100):
        found = await delivery.stub.GetInvalidation(pb.GetInvalidationRequest(name=queued.name))
        rows = await delivery.place.sql("SELECT remote FROM invalidations")
        if rows[0]["remote"]:
            break
        await asyncio.sleep(0.05)
    assert found.state == State.STATE_IN_PROGRESS
    cloud.in_progress = False
    assert (await ended(delivery, queued.name)).state == State.STATE_COMPLETED
    assert len(cloud.creations) == 1


async def test_static_files_are_forgotten_when_they_change(delivery: Delivery, cloud: Cloud) -> None:
    """
    PutStaticFile and DeleteStaticFile queue the percent-encoded path of the URL in the same transaction.
    """
    await delivery.put("é *.css", await delivery.place.asset(some_bytes()))
    await delivery.stub.DeleteStaticFile(pb.DeleteStaticFileRequest(name="static/é *.css"))
    rows = await delivery.place.sql("SELECT id, paths FROM invalidations")
    assert [row["paths"] for row in rows] == [["/static/%C3%A9%20%2A.css"]] * 2
    for row in rows:
        assert (await ended(delivery, f"invalidations/{row['id']}")).state == State.STATE_COMPLETED
    assert {path for paths in cloud.paths() for path in paths} == {"/static/%C3%A9%20%2A.css"}


@pytest.mark.parametrize(
    "trouble", [(503, "ServiceUnavailable"), (400, "Throttling"), (400, "TooManyInvalidationsInProgress"), (429, "X")]
)
async def test_trouble_is_retried_as_the_same_invalidation(
    delivery: Delivery, cloud: Cloud, trouble: tuple[int, str]
) -> None:
    """
    Transient errors are retried with the same reference and the same paths.
    """
    cloud.troubles = [trouble] * 2
    queued = await invalidate(delivery, "/a", "/b")
    assert (await ended(delivery, queued.name)).state == State.STATE_COMPLETED
    assert len(cloud.creations) == 3
    assert len(set(cloud.references())) == 1
    assert cloud.paths() == [["/a", "/b"]] * 3


async def test_after_the_bound_it_has_failed_and_says_why(delivery: Delivery, cloud: Cloud) -> None:
    """
    After the configured number of failed attempts an invalidation is FAILED, with the reason.
    """
    cloud.troubles = [(503, "ServiceUnavailable")] * 3
    found = await ended(delivery, (await invalidate(delivery, "/a")).name)
    assert (found.state, found.failure) == (
        State.STATE_FAILED,
        "CloudFront says ServiceUnavailable, 3 times in a row",
    )
    assert len(cloud.creations) == 3


async def test_a_refusal_is_not_retried(delivery: Delivery, cloud: Cloud) -> None:
    """
    A permanent error fails at once; CloudFront's message about accounts is only logged.
    """
    cloud.troubles = [(403, "AccessDenied")]
    found = await ended(delivery, (await invalidate(delivery, "/a")).name)
    assert (found.state, found.failure) == (State.STATE_FAILED, "CloudFront refuses it: AccessDenied")
    assert len(cloud.creations) == 1


async def test_an_edge_that_is_away_is_retried(database: Database, fresh: Place) -> None:
    """
    An unreachable CloudFront is a transient error, and the reason of the failure names it.
    """
    await queue(fresh, 1)
    edge = CloudFront(CloudFrontSettings("D", "http://127.0.0.1:1", "test", "test"))
    invalidator = Invalidator(database, edge, InvalidatorLimits(interval=0, attempts=2, pause=0.01))
    for _ in range(2):
        assert await invalidator.work()
        await all_due(fresh)
    await edge.close()
    rows = await fresh.sql("SELECT state, failure FROM invalidations")
    assert [tuple(row) for row in rows] == [
        ("FAILED", "CloudFront cannot be reached (EndpointConnectionError), 2 times in a row")
    ]


async def test_a_pause_lasts(database: Database, fresh: Place, cloud: Cloud, edge: CloudFront) -> None:
    """
    After a failure CloudFront is not called before the delay has passed, and the delay grows.
    """
    await queue(fresh, 1)
    cloud.troubles = [(503, "ServiceUnavailable")] * 3
    invalidator = Invalidator(database, edge, InvalidatorLimits(interval=0, pause=100))
    pauses = []
    for _ in range(3):
        assert await invalidator.work()
        assert not await invalidator.work()
        rows = await fresh.sql("SELECT extract(epoch FROM due_time - now())::float AS pause FROM invalidations")
        pauses.append(rows[0]["pause"])
        await all_due(fresh)
    # Up to a minute, with 50% jitter.
    assert all(20 < pause <= 90 for pause in pauses)
    assert len(cloud.creations) == 3


async def test_what_waits_goes_together(database: Database, fresh: Place, cloud: Cloud, edge: CloudFront) -> None:
    """
    Several invalidations are batched into one, and complete together.
    """
    await queue(fresh, 20, paths=3)
    invalidator = Invalidator(database, edge, InvalidatorLimits(interval=0))
    assert await invalidator.work()
    assert [len(paths) for paths in cloud.paths()] == [60]
    await all_due(fresh)
    assert await invalidator.work()
    assert await states(fresh) == {"COMPLETED": 20}
    assert not await invalidator.work()


@pytest.mark.parametrize(("paths", "star", "batches"), [(1000, False, [3000, 1000]), (10, True, [10, 10, 10, 10])])
async def test_no_batch_is_larger_than_cloudfront_takes(
    database: Database, fresh: Place, cloud: Cloud, edge: CloudFront, paths: int, star: bool, batches: list[int]
) -> None:
    """
    A batch has at most 3,000 paths, and 15 with a wildcard.
    """
    await queue(fresh, 4, paths=paths, star=star)
    invalidator = Invalidator(database, edge, InvalidatorLimits(interval=0, poll=1000))
    while await invalidator.work():
        pass
    assert [len(each) for each in cloud.paths()] == batches
    assert await states(fresh) == {"IN_PROGRESS": 4}


async def test_two_processes_share_the_work(database: Database, fresh: Place, cloud: Cloud, edge: CloudFront) -> None:
    """
    With two processes, each invalidation is sent once.
    """
    await queue(fresh, 12, paths=10, star=True)
    workers = [Invalidator(database, edge, InvalidatorLimits(interval=0, poll=1000)) for _ in range(4)]

    async def work(invalidator: Invalidator) -> None:
        while await invalidator.work():
            pass

    await asyncio.gather(*map(work, workers))
    assert sorted(path for paths in cloud.paths() for path in paths) == sorted(
        f"/{n}/{i}*" for n in range(1, 13) for i in range(1, 11)
    )
    assert len(set(cloud.references())) == len(cloud.creations)


class DyingEdge(CloudFront):
    """
    The process dies after CloudFront has accepted the batch, before that is recorded.
    """

    async def invalidate(self, reference: str, paths: Sequence[str]) -> str:
        """
        See `CloudFront`.
        """
        await super().invalidate(reference, paths)
        raise SystemError("killed")


async def test_the_work_of_a_dead_process_is_taken_up(
    database: Database, fresh: Place, cloud: Cloud, edge: CloudFront
) -> None:
    """
    The batch of a dead process is left alone during its lease; then another process continues it with the same
    reference.
    """
    await queue(fresh, 3)
    dying = DyingEdge(CloudFrontSettings(cloud.distribution, cloud.endpoint, "test", "test"))
    with pytest.raises(SystemError):
        await Invalidator(database, dying, InvalidatorLimits(interval=0)).work()
    await dying.close()
    await queue(fresh, 2)
    other = Invalidator(database, edge, InvalidatorLimits(interval=0))
    assert await other.work()
    assert [len(paths) for paths in cloud.paths()] == [3, 2]
    await all_due(fresh)
    while await other.work():
        await all_due(fresh)
    assert await states(fresh) == {"COMPLETED": 5}
    first, second, again = cloud.references()
    assert again == first != second
    assert cloud.paths()[2] == cloud.paths()[0]


async def test_a_retry_of_the_call_is_the_same_invalidation(delivery: Delivery) -> None:
    """
    A repeated request id queues nothing twice.
    """
    first = await invalidate(delivery, "/a", request_id="once")
    assert await invalidate(delivery, "/a", request_id="once") == first
    assert len(await delivery.place.sql("SELECT 1 FROM invalidations")) == 1


async def test_the_audit_says_who_asked(delivery: Delivery) -> None:
    """
    The audit entry has the beginning of a long list of paths only.
    """
    queued = await invalidate(delivery, *(f"/{n}" for n in range(3000)))
    rows = await delivery.place.sql(
        "SELECT action, jsonb_array_length(after->'paths') AS kept, after->>'path_count' AS count FROM audit"
        " WHERE resource = $1",
        queued.name,
    )
    assert [tuple(row) for row in rows] == [("InvalidatePaths", 100, "3000")]


@pytest.mark.parametrize(
    ("paths", "fields"),
    [
        ([], {"paths"}),
        (["/a"] * 3001, {"paths"}),
        (["/a", "b", "", "/a*b", "/**", "/a b", "/é", "/a\n", "/" + "a" * 4000], {f"paths[{n}]" for n in range(1, 9)}),
        (["x"] * 3000, {f"paths[{n}]" for n in range(10)}),
    ],
)
async def test_bad_paths_are_refused(delivery: Delivery, paths: list[str], fields: set[str]) -> None:
    """
    Errors name the first ten invalid paths.
    """
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await invalidate(delivery, *paths)
    failed = failure(error.value)
    assert (failed.code, failed.fields) == (grpc.StatusCode.INVALID_ARGUMENT, fields)


async def test_without_a_distribution_there_is_nothing_to_invalidate(fresh: Place) -> None:
    """
    Without a distribution, InvalidatePaths fails and writes of static files queue nothing.
    """
    async with running(fresh) as delivery:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await invalidate(delivery, "/a")
        assert (failure(error.value).code, failure(error.value).reason) == (
            grpc.StatusCode.FAILED_PRECONDITION,
            "NO_DISTRIBUTION",
        )
        await delivery.put("a", await fresh.asset(some_bytes()))
    assert await states(fresh) == {}


@pytest.mark.parametrize(
    ("name", "code", "reason"),
    [
        ("invalidations/x", grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELDS"),
        ("00000000-0000-4000-8000-000000000000", grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELDS"),
        (
            "invalidations/00000000-0000-4000-8000-000000000000",
            grpc.StatusCode.NOT_FOUND,
            "INVALIDATION_NOT_FOUND",
        ),
    ],
)
async def test_there_is_no_such_invalidation(delivery: Delivery, name: str, code: grpc.StatusCode, reason: str) -> None:
    """
    An invalid name, and one that does not exist.
    """
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await delivery.stub.GetInvalidation(pb.GetInvalidationRequest(name=name))
    assert (failure(error.value).code, failure(error.value).reason) == (code, reason)


async def test_old_ones_are_forgotten(database: Database, fresh: Place) -> None:
    """
    Invalidations that ended long ago are purged; pending ones stay, however old.
    """
    await queue(fresh, 3)
    await fresh.sql(
        "UPDATE invalidations SET state = 'COMPLETED', batch = id, finish_time = now() - interval '2 days'"
        " WHERE paths = '{/1/1}'"
    )
    await fresh.sql("UPDATE invalidations SET state = 'FAILED', batch = id, finish_time = now() WHERE paths = '{/2/1}'")
    await InvalidationStore(database).forget(timedelta(days=1))
    assert await states(fresh) == {"FAILED": 1, "QUEUED": 1}
