"""
Static files: names that point at assets, with objects of their own.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import grpc
import pytest

from embedded.link import Link
from modelyard.cdn.v1 import delivery_pb2 as pb
from services.cdn.model.static_files import CacheAges, Headers
from services.cdn.store.delivery.repair import StaticFileRepairer
from services.cdn.store.delivery.static_objects import StaticObjects
from services.cdn.store.objects.copier import Copier
from services.cdn.store.transactions import KEEPALIVE, background_transaction, keep_alive
from services.cdn.tests.calls import MIB, failure
from services.cdn.tests.delivery.yard import Delivery, Place, running, some_bytes
from services.chassis.errors import Unavailable
from services.ledger.store.database import DatabaseSettings, open_database
from services.ledger.store.statements import Statement

NOW = timedelta(0)


def get(delivery: Delivery, path: str) -> grpc.aio.UnaryUnaryCall[pb.GetStaticFileRequest, pb.StaticFile]:
    """
    Call GetStaticFile.
    """
    call: grpc.aio.UnaryUnaryCall[pb.GetStaticFileRequest, pb.StaticFile] = delivery.stub.GetStaticFile(
        pb.GetStaticFileRequest(name=f"static/{path}")
    )
    return call


def revision(trailing: Any) -> int:
    """
    The revision in the trailing metadata.
    """
    return int(dict(trailing or ())["x-revision"])


async def delete(delivery: Delivery, path: str, request_id: str = "") -> None:
    """
    Call DeleteStaticFile.
    """
    await delivery.stub.DeleteStaticFile(pb.DeleteStaticFileRequest(name=f"static/{path}", request_id=request_id))


async def pins(delivery: Delivery, path: str) -> tuple[set[str], list[tuple[int, int]]]:
    """
    The assets that a static file pins, and its owner's totals.
    """
    name = f"static/{path}"
    pinned = await delivery.place.sql("SELECT sha256 FROM pins WHERE owner = $1", name)
    owners = await delivery.place.sql("SELECT assets, bytes FROM owners WHERE owner = $1", name)
    return {row["sha256"] for row in pinned}, [(row["assets"], row["bytes"]) for row in owners]


def repairer(delivery: Delivery, copier: Copier) -> StaticFileRepairer:
    """
    A repairer of the service's static files.
    """
    return StaticFileRepairer(delivery.database, StaticObjects(copier, CacheAges()), has_edge=False)


async def test_put_makes_an_object_with_headers_of_its_own(delivery: Delivery) -> None:
    """
    The object has the asset's bytes and type, and the requested headers.
    """
    data = some_bytes()
    sha256 = await delivery.place.asset(data, "text/css; charset=utf-8")
    answer = await delivery.put(
        "site/é a.css", sha256, cache_control="no-cache", content_disposition='attachment; filename="a.css"'
    )
    assert (answer.name, answer.asset) == ("static/site/é a.css", f"assets/{sha256}")
    assert (answer.cache_control, answer.etag) == ("no-cache", f'"r{answer.revision}"')
    head = delivery.place.head("static/site/é a.css")
    assert head is not None
    assert head["ContentType"] == "text/css; charset=utf-8"
    assert head["CacheControl"] == "no-cache"
    assert head["ContentDisposition"] == 'attachment; filename="a.css"'
    assert delivery.place.read("static/site/é a.css") == data


async def test_the_content_type_belongs_to_the_name(delivery: Delivery) -> None:
    """
    A path is served with its own content type, whatever the media type of the asset, including its variants and its
    max-age; other paths to the same bytes have their own, and without one the asset's.
    """
    data = some_bytes()
    sha256 = await delivery.place.asset(data, "text/plain", variants={"gzip": b"shorter"})
    put = await delivery.put("lib/jquery.js", sha256, content_type="text/javascript; charset=utf-8")
    assert put.content_type == "text/javascript; charset=utf-8"
    assert (await get(delivery, "lib/jquery.js")).content_type == put.content_type
    await delivery.put("lib/index.html", sha256, content_type="text/html")
    await delivery.put("lib/readme", sha256)
    expected = {
        "static/lib/jquery.js": ("text/javascript; charset=utf-8", 600),
        "gzip/static/lib/jquery.js": ("text/javascript; charset=utf-8", 600),
        "static/lib/index.html": ("text/html", 300),
        "static/lib/readme": ("text/plain", 600),
    }
    for key, (content_type, seconds) in expected.items():
        head = delivery.place.head(key)
        assert head is not None, key
        assert (head["ContentType"], head["CacheControl"]) == (content_type, f"public, max-age={seconds}")
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await delivery.put("lib/x", sha256, content_type="text/html\r\nx: y")
    assert failure(error.value).fields == {"static_file.content_type"}


@pytest.mark.parametrize(
    ("media_type", "seconds"),
    [("text/html; charset=utf-8", 300), ("application/json", 300), ("text/css", 600), ("image/png", 600)],
)
async def test_cache_control_comes_from_the_table_of_types(delivery: Delivery, media_type: str, seconds: int) -> None:
    """
    Without a Cache-Control the content type decides; the field of the response stays empty.
    """
    sha256 = await delivery.place.asset(some_bytes(), media_type)
    answer = await delivery.put(f"types/{seconds}/{media_type.partition(';')[0]}", sha256)
    head = delivery.place.head(answer.name)
    assert head is not None
    assert head["CacheControl"] == f"public, max-age={seconds}"
    assert "ContentDisposition" not in head
    assert answer.cache_control == ""


async def test_get_says_what_a_path_points_at_and_its_revision(delivery: Delivery) -> None:
    """
    GetStaticFile returns what PutStaticFile returned, at the same revision or a later one.
    """
    put = await delivery.put("read", await delivery.place.asset(some_bytes()))
    call = get(delivery, "read")
    assert await call == put
    assert revision(await call.trailing_metadata()) >= put.revision


async def test_absence_has_a_revision(delivery: Delivery) -> None:
    """
    A NOT_FOUND has a revision, so that it can be cached.
    """
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await get(delivery, "nothing/here")
    assert failure(error.value).reason == "STATIC_FILE_NOT_FOUND"
    assert revision(error.value.trailing_metadata()) >= 1


async def test_a_private_asset_is_refused(delivery: Delivery) -> None:
    """
    A private asset cannot be a static file, which is public.
    """
    sha256 = await delivery.place.asset(some_bytes(), private=True)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await delivery.put("secret", sha256)
    assert (failure(error.value).code, failure(error.value).reason) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "ASSET_PRIVATE",
    )
    assert delivery.place.head("static/secret") is None


@pytest.mark.parametrize("state", ["", "CONDEMNED", "DELETING"])
async def test_an_asset_that_is_not_there_is_refused(delivery: Delivery, state: str) -> None:
    """
    An asset that does not exist or is being deleted cannot be pointed at.
    """
    sha256 = await delivery.place.asset(some_bytes(), state=state) if state else "0" * 64
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await delivery.put("dangling", sha256)
    assert failure(error.value).reason == "ASSET_NOT_FOUND"
    assert delivery.place.head("static/dangling") is None


async def test_an_etag_must_be_the_current_one(delivery: Delivery) -> None:
    """
    A write with an outdated etag is rejected and changes nothing.
    """
    old, new = await delivery.place.asset(some_bytes()), await delivery.place.asset(some_bytes())
    first = await delivery.put("guarded", old)
    second = await delivery.put("guarded", new, etag=first.etag)
    for path, etag in (("guarded", first.etag), ("never/made", second.etag)):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await delivery.put(path, old, etag=etag)
        assert (failure(error.value).code, failure(error.value).reason) == (
            grpc.StatusCode.ABORTED,
            "ETAG_MISMATCH",
        )
    assert (await get(delivery, "guarded")) == second
    head = delivery.place.head("static/guarded")
    assert head is not None
    assert delivery.place.read("static/guarded") == delivery.place.read(f"assets/{new}")
    assert delivery.place.head("static/never/made") is None


async def test_compressed_variants_come_along(delivery: Delivery) -> None:
    """
    The compressed variants of the asset are copied with the headers of the static file.
    """
    sha256 = await delivery.place.asset(some_bytes(), "text/html", variants={"gzip": b"g", "zstd": b"z"})
    await delivery.put("page.html", sha256, content_disposition="inline")
    for encoding, body in (("gzip", b"g"), ("zstd", b"z")):
        head = delivery.place.head(f"{encoding}/static/page.html")
        assert head is not None
        assert head["ContentEncoding"] == encoding
        assert (head["ContentType"], head["CacheControl"]) == ("text/html", "public, max-age=300")
        assert head["ContentDisposition"] == "inline"
        assert delivery.place.read(f"{encoding}/static/page.html") == body


async def test_variants_of_other_bytes_go(delivery: Delivery) -> None:
    """
    A path that is pointed at another asset keeps no variant of the previous one.
    """
    old = await delivery.place.asset(some_bytes(), variants={"gzip": b"old g", "zstd": b"old z"})
    new = await delivery.place.asset(some_bytes(), variants={"zstd": b"new z"})
    await delivery.put("changed", old)
    await delivery.put("changed", new)
    assert delivery.place.head("gzip/static/changed") is None
    assert delivery.place.read("zstd/static/changed") == b"new z"


async def test_a_variant_that_is_not_there_is_left_out(delivery: Delivery) -> None:
    """
    A variant that the bucket lacks is skipped, although the database lists it.
    """
    old = await delivery.place.asset(some_bytes(), variants={"gzip": b"old"})
    new = await delivery.place.asset(some_bytes(), variants={"gzip": b"lost"})
    delivery.place.client.delete_object(Bucket=delivery.place.s3.bucket, Key=f"gzip/assets/{new}")
    await delivery.put("lost-variant", old)
    await delivery.put("lost-variant", new)
    assert delivery.place.head("gzip/static/lost-variant") is None
    assert delivery.place.read("static/lost-variant") == delivery.place.read(f"assets/{new}")


async def test_a_static_file_pins_its_asset_and_no_other(delivery: Delivery) -> None:
    """
    The pin moves with the path and is removed with it; the totals follow.
    """
    old, new = await delivery.place.asset(b"12345" + some_bytes()), await delivery.place.asset(some_bytes())
    await delivery.put("pinned", old)
    assert await pins(delivery, "pinned") == ({old}, [(1, 37)])
    await delivery.put("pinned", old)
    assert await pins(delivery, "pinned") == ({old}, [(1, 37)])
    await delivery.put("pinned", new)
    assert await pins(delivery, "pinned") == ({new}, [(1, 32)])
    await delete(delivery, "pinned")
    assert await pins(delivery, "pinned") == (set(), [])


async def test_what_the_owner_pins_beside_it_stays(delivery: Delivery) -> None:
    """
    Other pins under the name of the path are not removed with it.
    """
    asset, other = await delivery.place.asset(some_bytes()), await delivery.place.asset(some_bytes())
    await delivery.put("shared", asset)
    await delivery.place.pin("static/shared", [other])
    await delivery.place.sql("UPDATE owners SET assets = 2, bytes = 64 WHERE owner = 'static/shared'")
    await delete(delivery, "shared")
    assert await pins(delivery, "shared") == ({other}, [(1, 32)])


async def test_quota(new_place: Callable[[], Place]) -> None:
    """
    A path pins up to its owner's quota, not counting the asset that it releases; a rejected write changes nothing.
    """
    place = replace(new_place(), quota=40)
    old, new, large = [await place.asset(some_bytes() + b"x" * more) for more in (0, 0, 10)]
    async with running(place) as delivery:
        await delivery.put("bounded", old)
        await delivery.put("bounded", new)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await delivery.put("bounded", large)
        assert (failure(error.value).code, failure(error.value).reason) == (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "ASSET_QUOTA",
        )
        assert await pins(delivery, "bounded") == ({new}, [(1, 32)])
    assert place.read("static/bounded") == place.read(f"assets/{new}")
    assert await place.sql("SELECT 1 FROM static_repairs") == []


async def test_what_a_path_lets_go_of_has_its_grace_time_anew(delivery: Delivery) -> None:
    """
    The grace period of the released asset begins when the path is changed or deleted, as after Unpin.
    """
    replaced, deleted = await delivery.place.asset(some_bytes()), await delivery.place.asset(some_bytes())
    await delivery.put("let-go", replaced)
    await delivery.place.sql("UPDATE assets SET touch_time = now() - interval '30 days'")
    await delivery.put("let-go", deleted)
    await delete(delivery, "let-go")
    rows = await delivery.place.sql(
        "SELECT sha256 FROM assets WHERE sha256 = ANY($1) AND touch_time > now() - interval '1 hour'",
        [replaced, deleted],
    )
    assert {row["sha256"] for row in rows} == {replaced, deleted}


async def test_delete_takes_row_and_objects_away(delivery: Delivery) -> None:
    """
    DeleteStaticFile deletes row and objects; a second one is NOT_FOUND.
    """
    await delivery.put("gone", await delivery.place.asset(some_bytes(), variants={"gzip": b"g"}))
    await delete(delivery, "gone")
    assert delivery.place.head("static/gone") is None
    assert delivery.place.head("gzip/static/gone") is None
    for call in (get(delivery, "gone"), delete(delivery, "gone")):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call
        assert failure(error.value).reason == "STATIC_FILE_NOT_FOUND"


async def test_writes_are_told_to_the_change_stream(delivery: Delivery) -> None:
    """
    Every write is reported in the change stream under the name of the path.
    """
    await delivery.put("told", await delivery.place.asset(some_bytes()))
    await delivery.put("told", await delivery.place.asset(some_bytes()))
    await delete(delivery, "told")
    rows = await delivery.place.sql("SELECT kinds FROM changes WHERE resources = '{static/told}' ORDER BY revision")
    assert [row["kinds"] for row in rows] == [[1], [2], [3]]


async def test_a_retry_gets_the_first_answer_and_undoes_nothing(delivery: Delivery) -> None:
    """
    A repeated request id changes nothing, even if another write came in between.
    """
    first, second = await delivery.place.asset(some_bytes()), await delivery.place.asset(some_bytes())
    answer = await delivery.put("retried", first, request_id="retry-put")
    await delivery.put("retried", second)
    assert await delivery.put("retried", first, request_id="retry-put") == answer
    assert (await get(delivery, "retried")).asset == f"assets/{second}"
    assert delivery.place.read("static/retried") == delivery.place.read(f"assets/{second}")
    await delete(delivery, "retried", "retry-delete")
    await delete(delivery, "retried", "retry-delete")


async def test_concurrent_puts_leave_the_object_that_the_row_names(new_place: Callable[[], Place]) -> None:
    """
    After concurrent writes of two processes the object in the bucket matches the row.
    """
    place = new_place()
    digests = [await place.asset(some_bytes(), variants={"gzip": b"g"} if n % 2 else None) for n in range(6)]
    async with running(place) as one, running(place) as other:
        for _ in range(4):
            puts = [each.put("raced", sha256) for sha256 in digests for each in (one, other)]
            random.SystemRandom().shuffle(puts)
            await asyncio.gather(*puts)
            winner = (await get(one, "raced")).asset
            assert place.read("static/raced") == place.read(winner)
            assert (place.head("gzip/static/raced") is not None) == (place.head(f"gzip/{winner}") is not None)
            assert await pins(one, "raced") == ({winner.removeprefix("assets/")}, [(1, 32)])
    assert await place.sql("SELECT 1 FROM static_repairs") == []


async def test_what_a_dead_writer_left_is_mended(delivery: Delivery) -> None:
    """
    When a writer dies between object and row, the object is restored from the row.
    """
    row, begun = await delivery.place.asset(some_bytes()), await delivery.place.asset(some_bytes())
    await delivery.put("half", row)
    bucket = delivery.place.s3.bucket
    for key in ("static/half", "static/half-new", "gzip/static/half"):
        delivery.place.client.copy_object(Bucket=bucket, Key=key, CopySource=f"{bucket}/assets/{begun}")
    await delivery.place.sql(
        "INSERT INTO static_repairs VALUES ('static/half', now()), ('static/half-new', now() - interval '1 hour')"
    )
    copier = Copier(delivery.place.s3)
    assert await repairer(delivery, copier).repair(timedelta(minutes=30)) == 1
    assert delivery.place.head("static/half-new") is None
    assert await repairer(delivery, copier).repair(NOW) == 1
    assert delivery.place.read("static/half") == delivery.place.read(f"assets/{row}")
    assert delivery.place.head("gzip/static/half") is None
    assert await repairer(delivery, copier).repair(NOW) == 0
    await copier.close()


async def test_a_put_that_fails_late_is_mended(delivery: Delivery) -> None:
    """
    When the bytes of the asset are lost the call fails, and the path still serves the bytes of its row.
    """
    good, lost = await delivery.place.asset(some_bytes()), await delivery.place.asset(some_bytes())
    await delivery.put("late", good)
    delivery.place.client.delete_object(Bucket=delivery.place.s3.bucket, Key=f"assets/{lost}")
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await delivery.put("late", lost)
    assert failure(error.value).reason == "ASSET_NOT_FOUND"
    copier = Copier(delivery.place.s3)
    assert await repairer(delivery, copier).repair(NOW) == 1
    await copier.close()
    assert (await get(delivery, "late")).asset == f"assets/{good}"
    assert delivery.place.read("static/late") == delivery.place.read(f"assets/{good}")


async def test_a_writer_that_loses_its_database_is_mended(
    new_place: Callable[[], Place], link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Objects whose row could not be written are restored from the previous row.
    """
    place = new_place()
    old, new = await place.asset(some_bytes()), await place.asset(some_bytes(), variants={"gzip": b"g"})
    slow = replace(place, s3=replace(place.s3, endpoint=f"http://127.0.0.1:{link.port}"))
    async with running(slow) as delivery:
        await delivery.put("cut", old)
        monkeypatch.setattr(link, "delay", 0.3)
        put = asyncio.ensure_future(delivery.put("cut", new))
        while not await place.sql("SELECT 1 FROM static_repairs"):
            await asyncio.sleep(0.01)
        await place.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND state = 'idle in transaction'"
        )
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await put
        assert failure(error.value).code is grpc.StatusCode.UNAVAILABLE
        monkeypatch.setattr(link, "delay", 0.0)
        assert place.read("static/cut") == place.read(f"assets/{new}")
        copier = Copier(place.s3)
        assert await repairer(delivery, copier).repair(NOW) == 1
        await copier.close()
        assert (await get(delivery, "cut")).asset == f"assets/{old}"
        assert place.read("static/cut") == place.read(f"assets/{old}")
        assert place.head("gzip/static/cut") is None


async def test_a_transaction_that_waits_for_the_bucket_is_kept_alive(place: Place) -> None:
    """
    A transaction that waits for the bucket sends keepalives, so that the idle timeout does not end it.
    """
    async with open_database(DatabaseSettings(url=place.url)) as database:

        async def wait(every: float) -> None:
            async with background_transaction(database) as run:
                await run(Statement("test.hasty", "SET LOCAL idle_in_transaction_session_timeout = 300"))
                async with keep_alive(partial(run, KEEPALIVE), every):
                    await asyncio.sleep(1)
                assert await run(KEEPALIVE)

        await wait(0.05)
        with pytest.raises(Unavailable):
            await wait(100)


async def test_large_objects_are_copied_in_parts(place: Place) -> None:
    """
    An object above the limit of one copy request is copied completely, with its headers.
    """
    data = random.SystemRandom().randbytes(11 * MIB + 1)
    sha256 = await place.asset(data)
    copier = Copier(place.s3, most_at_once=5 * MIB, part=5 * MIB)
    headers = Headers("text/x-large", "public, max-age=1", "inline", "br")
    await copier.copy(f"assets/{sha256}", "static/large", headers, len(data))
    await copier.close()
    assert place.read("static/large") == data
    head = place.head("static/large")
    assert head is not None
    assert (head["ContentType"], head["CacheControl"]) == ("text/x-large", "public, max-age=1")
    assert (head["ContentDisposition"], head["ContentEncoding"]) == ("inline", "br")


@pytest.mark.parametrize(
    "name",
    [
        *("", "static", "static/", "other/a", "static//a", "static/a/", "static/a//b", "static/.", "static/../a"),
        *(
            "static/100%.txt",
            "static/a\\b",
            "static/a/./b",
            "static/a\0b",
            "static/a\nb",
            "static/a\x85b",
            "static/" + "é" * 257,
        ),
    ],
)
async def test_a_name_that_is_not_a_plain_path_is_refused(delivery: Delivery, name: str) -> None:
    """
    Ambiguous paths are rejected by every method.
    """
    calls = (
        delivery.stub.GetStaticFile(pb.GetStaticFileRequest(name=name)),
        delivery.stub.DeleteStaticFile(pb.DeleteStaticFileRequest(name=name)),
        delivery.stub.PutStaticFile(
            pb.PutStaticFileRequest(static_file=pb.StaticFile(name=name, asset=f"assets/{'0' * 64}"))
        ),
    )
    for call, field in zip(calls, ("name", "name", "static_file.name"), strict=True):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call
        assert failure(error.value).code is grpc.StatusCode.INVALID_ARGUMENT
        assert failure(error.value).fields == {field}


async def test_everything_that_is_wrong_is_said_at_once(delivery: Delivery) -> None:
    """
    Values that could terminate a header are rejected; errors name every invalid field.
    """
    wrong = pb.StaticFile(name="a", asset="b", cache_control="x\r\ny: z", content_disposition="é" * 10)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await delivery.stub.PutStaticFile(pb.PutStaticFileRequest(static_file=wrong, request_id="\n"))
    assert failure(error.value).fields == {
        "static_file.name",
        "static_file.asset",
        "static_file.cache_control",
        "static_file.content_disposition",
        "request_id",
    }
