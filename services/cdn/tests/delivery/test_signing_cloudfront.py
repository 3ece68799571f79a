"""
URLs that are signed for CloudFront: verified here with the public key, as its servers would.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import grpc
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from google.protobuf.duration_pb2 import Duration

from modelyard.cdn.v1 import delivery_pb2 as pb
from services.cdn.tests.calls import failure
from services.cdn.tests.delivery.yard import VERSION, Delivery, Place, running, some_bytes

DOMAIN = "d111111abcdef8.cloudfront.net"
KEY_PAIR = "K2JCJMDEHXQW5F"


@pytest.fixture(scope="module")
def key() -> rsa.RSAPrivateKey:
    """
    The key pair.
    """
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture(scope="module")
async def delivery(
    key: rsa.RSAPrivateKey, new_place: Callable[[], Place], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Delivery]:
    """
    A delivery service with CloudFront.
    """
    file = tmp_path_factory.mktemp("key") / "key.pem"
    write_key(file, key)
    environ = {
        "MODELYARD_CLOUDFRONT_DOMAIN": DOMAIN,
        "MODELYARD_CLOUDFRONT_KEY_PAIR_ID": KEY_PAIR,
        "MODELYARD_CLOUDFRONT_PRIVATE_KEY_FILE": str(file),
    }
    async with running(new_place(), **environ) as found:
        yield found


def write_key(file: Path, key: Any) -> None:
    """
    Write a private key that only its user can read.
    """
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file.touch(0o600)
    file.write_bytes(pem)


def decoded(text: str) -> bytes:
    """
    CloudFront's base64, which replaces characters that are invalid in a query.
    """
    return base64.b64decode(text.translate(str.maketrans("-_~", "+=/")), validate=True)


def verified(key: rsa.RSAPrivateKey, url: str) -> tuple[str, dict[str, Any]]:
    """
    The URL without its signature, and its policy; fails if the signature is invalid.
    """
    query = parse_qs(urlsplit(url).query, strict_parsing=True)
    assert query["Key-Pair-Id"] == [KEY_PAIR]
    base, _, signing = url.rpartition("Policy=" if "Policy" in query else "Expires=")
    if "Policy" in query:
        policy = decoded(query["Policy"][0])
    else:
        # As CloudFront makes it: in this order and without spaces.
        resource, expires = json.dumps(base[:-1]), int(query["Expires"][0])
        policy = (
            f'{{"Statement":[{{"Resource":{resource},"Condition":{{"DateLessThan":{{"AWS:EpochTime":{expires}}}}}}}]}}'
        ).encode()
    assert signing.count("&") == 2
    key.public_key().verify(decoded(query["Signature"][0]), policy, padding.PKCS1v15(), hashes.SHA1())  # noqa: S303
    (statement,) = json.loads(policy)["Statement"]
    return base[:-1], statement


@pytest.mark.parametrize("private", [False, True])
async def test_a_canned_policy_says_when(delivery: Delivery, key: rsa.RSAPrivateKey, private: bool) -> None:
    """
    The URL of one asset has a canned policy: short, and signed over the URL and the expiry.
    """
    sha256 = await delivery.place.asset(some_bytes(), private=private)
    before = int(time.time())
    answer = await delivery.stub.SignUrl(pb.SignUrlRequest(asset=f"assets/{sha256}", ttl=Duration(seconds=90)))
    base, statement = verified(key, answer.url)
    assert base == f"https://{DOMAIN}/{'private' if private else 'assets'}/{sha256}"
    expires = answer.expire_time.seconds
    assert before + 90 <= expires <= time.time() + 90
    assert statement == {"Resource": base, "Condition": {"DateLessThan": {"AWS:EpochTime": expires}}}
    assert "Policy=" not in answer.url


async def test_a_signature_is_good_for_one_address(delivery: Delivery, key: rsa.RSAPrivateKey) -> None:
    """
    With another key the signature is invalid (so that the check itself can fail).
    """
    sha256 = await delivery.place.asset(some_bytes())
    url = (await delivery.stub.SignUrl(pb.SignUrlRequest(asset=f"assets/{sha256}"))).url
    with pytest.raises(InvalidSignature):
        verified(key, url.replace(sha256, "0" * 64))


async def test_a_custom_policy_says_from_where(delivery: Delivery, key: rsa.RSAPrivateKey) -> None:
    """
    An IP range is part of the signed policy.
    """
    sha256 = await delivery.place.asset(some_bytes())
    request = pb.SignUrlRequest(asset=f"assets/{sha256}", ip_range="192.0.2.0/24")
    answer = await delivery.stub.SignUrl(request)
    base, statement = verified(key, answer.url)
    assert statement == {
        "Resource": f"https://{DOMAIN}/assets/{sha256}",
        "Condition": {
            "DateLessThan": {"AWS:EpochTime": answer.expire_time.seconds},
            "IpAddress": {"AWS:SourceIp": "192.0.2.0/24"},
        },
    }
    assert base == statement["Resource"]


async def test_the_name_to_save_as_is_signed(delivery: Delivery, key: rsa.RSAPrivateKey) -> None:
    """
    The download name is part of the query that is signed.
    """
    sha256 = await delivery.place.asset(some_bytes())
    request = pb.SignUrlRequest(asset=f"assets/{sha256}", download_name='a&b="é".bin')
    base, statement = verified(key, (await delivery.stub.SignUrl(request)).url)
    assert statement["Resource"] == base
    assert parse_qs(urlsplit(base).query) == {
        "response-content-disposition": [
            "attachment; filename=\"a&b=___.bin\"; filename*=UTF-8''a&b%3D%22%C3%A9%22.bin"
        ]
    }


async def test_ipv6_is_not_in_cloudfronts_policies(delivery: Delivery) -> None:
    """
    An IPv6 range, which CloudFront would ignore, is rejected.
    """
    sha256 = await delivery.place.asset(some_bytes())
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await delivery.stub.SignUrl(pb.SignUrlRequest(asset=f"assets/{sha256}", ip_range="2001:db8::/32"))
    assert failure(error.value).reason == "SIGNER_LACKS"


async def test_one_signature_is_good_for_all_files_of_a_version(delivery: Delivery, key: rsa.RSAPrivateKey) -> None:
    """
    The signed prefix contains every pinned asset of the version, including private ones, and nothing else.
    """
    place, owner = delivery.place, VERSION
    data = {await place.asset(body := some_bytes(), "text/x", private=private): body for private in (False, True)}
    other = await place.asset(some_bytes())
    await place.pin(owner, list(data))
    await place.pin("namespaces/team/models/net/versions/33", [other])
    answer = await delivery.stub.SignUrl(pb.SignUrlRequest(version=owner, ip_range="192.0.2.0/24"))
    base, statement = verified(key, answer.url)
    assert base == statement["Resource"] == f"https://{DOMAIN}/versions/{owner}/*"
    assert statement["Condition"]["IpAddress"] == {"AWS:SourceIp": "192.0.2.0/24"}
    assert answer.url.startswith(f"{base}?Policy=")
    assert place.keys("versions/") == {f"versions/{owner}/{sha256}" for sha256 in data}
    for sha256, body in data.items():
        assert place.read(f"versions/{owner}/{sha256}") == body
        head = place.head(f"versions/{owner}/{sha256}")
        assert head is not None
        assert head["ContentType"] == "text/x"


async def test_signing_again_copies_what_is_new_only(delivery: Delivery) -> None:
    """
    Existing copies are kept; only assets pinned since are copied.
    """
    place, owner = delivery.place, "namespaces/team/models/again/versions/1"
    first, second = await place.asset(some_bytes()), await place.asset(some_bytes())
    await place.pin(owner, [first])
    await delivery.stub.SignUrl(pb.SignUrlRequest(version=owner))
    # A second copy would overwrite this.
    key = f"versions/{owner}/{first}"
    place.client.put_object(Bucket=place.s3.bucket, Key=key, Body=b"as it was")
    await place.pin(owner, [second])
    await asyncio.gather(*(delivery.stub.SignUrl(pb.SignUrlRequest(version=owner)) for _ in range(3)))
    assert place.read(key) == b"as it was"
    assert place.keys(f"versions/{owner}/") == {key, f"versions/{owner}/{second}"}
    rows = await place.sql("SELECT sha256 FROM shares WHERE owner = $1", owner)
    assert {row["sha256"] for row in rows} == {first, second}


async def test_a_version_without_pins_is_not_there(delivery: Delivery) -> None:
    """
    A version without pins is NOT_FOUND, and nothing is signed or copied.
    """
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await delivery.stub.SignUrl(pb.SignUrlRequest(version="namespaces/a/models/b/versions/9"))
    assert (failure(error.value).code, failure(error.value).reason) == (
        grpc.StatusCode.NOT_FOUND,
        "VERSION_NOT_FOUND",
    )


async def test_copies_go_with_their_pins(delivery: Delivery) -> None:
    """
    Copies of unpinned assets are deleted, the others stay; the assets are untouched.
    """
    place = delivery.place
    gone, kept = "namespaces/team/models/gone/versions/1", "namespaces/team/models/kept/versions/1"
    sha256 = await place.asset(some_bytes())
    for owner in (gone, kept):
        await place.pin(owner, [sha256])
        await delivery.stub.SignUrl(pb.SignUrlRequest(version=owner))
    await place.unpin(gone)
    assert await delivery.remove_version_copies() == 1
    assert place.keys(f"versions/{gone}/") == set()
    assert place.keys(f"versions/{kept}/") == {f"versions/{kept}/{sha256}"}
    assert place.head(f"assets/{sha256}") is not None
    assert await delivery.remove_version_copies() == 0
    # They are created again on demand.
    await place.pin(gone, [sha256])
    await delivery.stub.SignUrl(pb.SignUrlRequest(version=gone))
    assert place.keys(f"versions/{gone}/") == {f"versions/{gone}/{sha256}"}


async def test_nothing_is_left_that_nobody_knows_of(delivery: Delivery) -> None:
    """
    However signing, unpinning and removing interleave, every copy has a row and is deleted eventually.
    """
    place, owner = delivery.place, "namespaces/team/models/storm/versions/1"
    digests = [await place.asset(some_bytes()) for _ in range(4)]

    async def sign() -> None:
        for _ in range(8):
            with contextlib.suppress(grpc.aio.AioRpcError):
                await delivery.stub.SignUrl(pb.SignUrlRequest(version=owner))

    async def pin() -> None:
        for _ in range(8):
            await place.pin(owner, digests)
            await asyncio.sleep(0.02)
            await place.unpin(owner)

    async def remove() -> None:
        for _ in range(16):
            await delivery.remove_version_copies()

    await asyncio.gather(sign(), sign(), sign(), pin(), remove(), remove())
    rows = await place.sql("SELECT sha256 FROM shares WHERE owner = $1", owner)
    assert place.keys(f"versions/{owner}/") <= {f"versions/{owner}/{row['sha256']}" for row in rows}
    await place.pin(owner, digests)
    await delivery.stub.SignUrl(pb.SignUrlRequest(version=owner))
    assert place.keys(f"versions/{owner}/") == {f"versions/{owner}/{sha256}" for sha256 in digests}
    await place.unpin(owner)
    assert await delivery.remove_version_copies() == len(digests)
    assert place.keys(f"versions/{owner}/") == set()


async def test_copies_go_when_no_address_leads_to_them(delivery: Delivery) -> None:
    """
    Copies are deleted some time after the last URL has expired.
    """
    place, owner = delivery.place, "namespaces/team/models/old/versions/1"
    await place.pin(owner, [await place.asset(some_bytes())])
    await delivery.stub.SignUrl(pb.SignUrlRequest(version=owner))
    await place.sql("UPDATE shares SET expire_time = now() - interval '6 days' WHERE owner = $1", owner)
    assert await delivery.remove_version_copies() == 0
    await place.sql("UPDATE shares SET expire_time = now() - interval '8 days' WHERE owner = $1", owner)
    assert await delivery.remove_version_copies() == 1
    assert place.keys(f"versions/{owner}/") == set()
