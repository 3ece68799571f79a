"""
URLs presigned for S3: they work, and changed ones do not.
"""

from __future__ import annotations

import asyncio
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from email.message import Message
from urllib.parse import parse_qs, unquote, urlsplit

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from modelyard.cdn.v1 import delivery_pb2 as pb
from services.cdn.model.names import VERSION as VERSION_NAME
from services.cdn.tests.calls import failure
from services.cdn.tests.delivery.yard import VERSION, Delivery, Place, running, some_bytes
from services.registry.model import names


async def fetch(url: str) -> tuple[int, bytes, Message]:
    """
    GET *url*: status, body and headers.
    """

    def work() -> tuple[int, bytes, Message]:
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - http, to loopback
                return answer.status, answer.read(), answer.headers
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read(), error.headers

    return await asyncio.to_thread(work)


async def sign(delivery: Delivery, sha256: str, ttl: int | None = None, **terms: str) -> pb.SignUrlResponse:
    """
    Call SignUrl for an asset; *ttl* in seconds.
    """
    duration = None if ttl is None else Duration(seconds=ttl)
    answer: pb.SignUrlResponse = await delivery.stub.SignUrl(
        pb.SignUrlRequest(asset=f"assets/{sha256}", ttl=duration, **terms)
    )
    return answer


async def refused(delivery: Delivery, request: pb.SignUrlRequest) -> tuple[grpc.StatusCode, str, set[str]]:
    """
    The failure of SignUrl.
    """
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await delivery.stub.SignUrl(request)
    failed = failure(error.value)
    return failed.code, failed.reason, failed.fields


@pytest.mark.parametrize("private", [False, True])
async def test_a_signed_address_gives_the_bytes(delivery: Delivery, private: bool) -> None:
    """
    The URL gives access to the asset, private or not; without the signature nobody has access.
    """
    data = some_bytes()
    sha256 = await delivery.place.asset(data, "text/x-mine", private=private)
    url = (await sign(delivery, sha256)).url
    status, body, headers = await fetch(url)
    assert (status, body, headers["Content-Type"]) == (200, data, "text/x-mine")
    # Objects stored by an earlier release allow shared caches.
    assert (headers["Cache-Control"] or "").startswith("private") == private
    assert urlsplit(url).path == f"/{delivery.place.s3.bucket}/{'private' if private else 'assets'}/{sha256}"
    assert (await fetch(url.partition("?")[0]))[0] == 403


async def test_a_changed_address_gives_nothing(delivery: Delivery) -> None:
    """
    A changed key, expiry or signature is rejected.
    """
    sha256, other = await delivery.place.asset(some_bytes()), await delivery.place.asset(some_bytes())
    url = (await sign(delivery, sha256, 600)).url
    signature = parse_qs(urlsplit(url).query)["X-Amz-Signature"][0]
    changed = (
        url.replace(sha256, other),
        url.replace("X-Amz-Expires=600", "X-Amz-Expires=6000"),
        url.replace(signature, "0" * len(signature)),
    )
    for each in changed:
        assert each != url
        assert (await fetch(each))[0] == 403
    assert (await fetch(url))[0] == 200


async def test_an_address_ends(new_place: Callable[[], Place]) -> None:
    """
    The URL stops working at the reported expiry.
    """
    place = new_place()
    async with running(place, MODELYARD_SIGNED_URL_LEAST_SECONDS="1") as delivery:
        answer = await sign(delivery, await place.asset(some_bytes()), 2)
        assert (await fetch(answer.url))[0] == 200
        while time.time() <= answer.expire_time.seconds + 1:
            await asyncio.sleep(0.1)
        assert (await fetch(answer.url))[0] == 403


async def test_the_usual_time_is_an_hour(delivery: Delivery) -> None:
    """
    The default TTL is that of the setting.
    """
    before = int(time.time())
    answer = await sign(delivery, await delivery.place.asset(some_bytes()))
    assert before + 3600 <= answer.expire_time.seconds <= time.time() + 3600
    assert parse_qs(urlsplit(answer.url).query)["X-Amz-Expires"] == ["3600"]


@pytest.mark.parametrize("ttl", [-1, 0, 59, 7 * 86400 + 1])
async def test_a_time_out_of_bounds_is_refused(delivery: Delivery, ttl: int) -> None:
    """
    The TTL is limited to between a minute and seven days by default.
    """
    request = pb.SignUrlRequest(asset=f"assets/{'0' * 64}", ttl=Duration(seconds=ttl))
    assert await refused(delivery, request) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELDS", {"ttl"})


@pytest.mark.parametrize("ttl", [60, 7 * 86400])
async def test_the_bounds_themselves_are_fine(delivery: Delivery, ttl: int) -> None:
    """
    Both limits are inclusive, and S3 accepts them.
    """
    sha256 = await delivery.place.asset(some_bytes())
    assert (await fetch((await sign(delivery, sha256, ttl)).url))[0] == 200


@pytest.mark.parametrize(
    "name", ["model.bin", 'a "quoted\\" name; x=y.bin', "Modèle 模型 (1)%41.bin", "'; filename=evil.exe", "*"]
)
async def test_a_browser_saves_under_the_given_name(delivery: Delivery, name: str) -> None:
    """
    Content-Disposition has one file name and nothing else, whatever characters the name has (RFC 6266, RFC 8187).
    """
    sha256 = await delivery.place.asset(some_bytes())
    status, _, headers = await fetch((await sign(delivery, sha256, download_name=name)).url)
    header = headers["Content-Disposition"]
    assert status == 200
    match = re.fullmatch(r"attachment; filename=\"([^\"\\%]*)\"; filename\*=UTF-8''([A-Za-z0-9!#$&+.^_`|~%-]+)", header)
    assert match is not None, header
    assert match[1].isascii()
    assert unquote(match[2]) == name


@pytest.mark.parametrize("name", ["a\r\nSet-Cookie: b", "a\0", "a\x7f", "a\x85", "a" * 256])
async def test_a_name_that_could_end_the_header_is_refused(delivery: Delivery, name: str) -> None:
    """
    Control characters and long names are rejected.
    """
    request = pb.SignUrlRequest(asset=f"assets/{'0' * 64}", download_name=name)
    assert (await refused(delivery, request))[2] == {"download_name"}


@pytest.mark.parametrize("state", ["", "CONDEMNED", "DELETING"])
async def test_there_is_no_address_of_what_is_not_there(delivery: Delivery, state: str) -> None:
    """
    No URL is signed for an asset that does not exist or is being deleted.
    """
    sha256 = await delivery.place.asset(some_bytes(), state=state) if state else "0" * 64
    request = pb.SignUrlRequest(asset=f"assets/{sha256}")
    assert (await refused(delivery, request))[:2] == (grpc.StatusCode.NOT_FOUND, "ASSET_NOT_FOUND")


@pytest.mark.parametrize(
    "ip_range", ["192.0.2.1", "192.0.2.1/24", "192.0.2.0/33", "anywhere/8", "192.0.2.0/24,10.0.0.0/8"]
)
async def test_an_ip_range_is_a_cidr_block(delivery: Delivery, ip_range: str) -> None:
    """
    Anything but a CIDR block without host bits is rejected, since it would be ambiguous.
    """
    request = pb.SignUrlRequest(asset=f"assets/{'0' * 64}", ip_range=ip_range)
    assert (await refused(delivery, request))[2] == {"ip_range"}


@pytest.mark.parametrize(
    "request_",
    [pb.SignUrlRequest(asset=f"assets/{'0' * 64}", ip_range="192.0.2.0/24"), pb.SignUrlRequest(version=VERSION)],
)
async def test_s3_signs_neither_ranges_nor_versions(delivery: Delivery, request_: pb.SignUrlRequest) -> None:
    """
    Terms that only CloudFront supports are rejected rather than ignored.
    """
    assert (await refused(delivery, request_))[:2] == (grpc.StatusCode.FAILED_PRECONDITION, "SIGNER_LACKS")


@pytest.mark.parametrize(
    ("request_", "fields"),
    [
        (pb.SignUrlRequest(), {"asset"}),
        (pb.SignUrlRequest(asset="assets/x"), {"asset"}),
        (pb.SignUrlRequest(version="namespaces/a/models/b"), {"version"}),
        (pb.SignUrlRequest(version="namespaces/a/models/b/versions/1/*"), {"version"}),
        (pb.SignUrlRequest(version="namespaces/a.b/models/c/versions/1"), {"version"}),
        (pb.SignUrlRequest(version=VERSION, download_name="a"), {"download_name"}),
        (
            pb.SignUrlRequest(ttl=Duration(seconds=1), ip_range="x", download_name="\n"),
            {"asset", "ttl", "ip_range", "download_name"},
        ),
    ],
)
async def test_bad_requests_hear_of_everything(
    delivery: Delivery, request_: pb.SignUrlRequest, fields: set[str]
) -> None:
    """
    Errors name every invalid field.
    """
    code, _, found = await refused(delivery, request_)
    assert (code, found) == (grpc.StatusCode.INVALID_ARGUMENT, fields)


def test_versions_are_named_as_in_the_registry() -> None:
    """
    Both services accept the same names of versions.
    """
    own, registry = (re.sub(r"\((?!\?)|\)", "", each.pattern) for each in (VERSION_NAME, names._VERSION_NAME))
    assert own == registry


async def test_clients_are_sent_where_they_reach_the_store(place: Place) -> None:
    """
    The URL has the public endpoint, and its signature is valid there.
    """
    # Another name of the same server: the host is signed.
    public = (place.s3.endpoint or "").replace("127.0.0.1", "localhost")
    data = some_bytes()
    async with running(place, MODELYARD_S3_PUBLIC_ENDPOINT=public) as delivery:
        url = (await sign(delivery, await place.asset(data))).url
    assert url.startswith(f"{public}/")
    assert (await fetch(url))[:2] == (200, data)
    assert (await fetch(url.replace("localhost", "127.0.0.1")))[0] == 403
