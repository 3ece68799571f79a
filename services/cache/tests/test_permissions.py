"""
Who may use a namespace of the key-value cache.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor

from modelyard.cache.v1 import cache_pb2 as pb
from modelyard.contracts import scopes
from modelyard.tokens import AUDIENCE, ISSUER, key_set, make_key, mint
from services.cache.model.namespaces import parse
from services.cache.tests.harness import Backend, Cache, running
from services.cache.tests.values_client import SMALL

NAMED = """
readers = ["scope:cache.read:own", "subject:reporter", "group:Site Reliability"]
writers = ["subject:login", "group:logins"]
"""
WRITERS = '["subject:login", "group:logins"]'
OWN = SMALL.replace("[large]", "[own]") + NAMED
SERVICE = pb.DESCRIPTOR.services_by_name["KeyValueService"]
SCOPES = ("cache.read", "cache.write")
Caller = Callable[..., tuple[tuple[str, str], ...]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """
    The namespaces file: those of the other tests, and one that is restricted.
    """
    (tmp_path / "own.toml").write_text(OWN)
    return tmp_path


@pytest.fixture
async def guarded(target: str, store: Backend, folder: Path) -> AsyncIterator[Cache]:
    """
    A cache with access control.
    """
    make_key(folder / "key.pem")
    (folder / "jwks.json").write_text(key_set(folder / "key.pem"))
    settings = {
        "MODELYARD_ACCESS": "on",
        "MODELYARD_JWKS_FILE": str(folder / "jwks.json"),
        "MODELYARD_JWT_ISSUER": ISSUER,
        "MODELYARD_JWT_AUDIENCE": AUDIENCE,
        "MODELYARD_CACHE_NAMESPACES_FILE": str(folder / "own.toml"),
    }
    async with running(target, store, **settings) as found:
        yield found


@pytest.fixture
def caller(folder: Path) -> Caller:
    """
    Makes the metadata of a caller: a token with additional scopes, and groups.
    """

    def metadata(subject: str, *more: str, groups: Sequence[str] = ()) -> tuple[tuple[str, str], ...]:
        token = mint(folder / "key.pem", subject, (*SCOPES, *more), 600.0, groups)
        return (("authorization", f"Bearer {token}"),)

    return metadata


async def refused(cache: Cache, method: MethodDescriptor, metadata: Any, namespace: str = "own") -> str:
    """
    The reason why a call is denied; empty when it is allowed.
    """
    kind = cache.channel.unary_stream if method.server_streaming else cache.channel.unary_unary
    answers: Any = kind(
        f"/{SERVICE.full_name}/{method.name}",
        request_serializer=lambda request: request.SerializeToString(),
        response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
    )
    # Complete, so that an allowed call succeeds.
    request: Any = message_factory.GetMessageClass(method.input_type)()
    request.namespace = namespace
    for name, value in (("key", "k"), ("lease_token", "1")):
        if name in method.input_type.fields_by_name:
            setattr(request, name, value)
    for name in ("keys", "tags"):
        if name in method.input_type.fields_by_name:
            getattr(request, name).append("k")
    if "entry" in method.input_type.fields_by_name:
        request.entry.key = "k"
    if "entries" in method.input_type.fields_by_name:
        request.entries.add(key="k")
    call = answers(request, metadata=metadata, timeout=10)
    try:
        await (call.read() if method.server_streaming else call)
    except grpc.aio.AioRpcError as error:
        reasons = {"NAMESPACE_DENIED", "UNKNOWN_NAMESPACE", "NAMESPACE_NEEDS_ACCESS"}
        said = str(error.trailing_metadata())
        return next((reason for reason in reasons if reason in said), "")
    finally:
        call.cancel()
    return ""


async def test_every_rpc_checks_the_caller(guarded: Cache, caller: Caller) -> None:
    """
    Readers may read and writers may write, according to the scope of the RPC; to other callers the namespace does not
    exist; an unrestricted namespace is open to every caller with the scope of the RPC.
    """
    strangers = [caller("ann"), caller("ann", "own"), caller("scope:cache.read:own"), caller("login2")]
    writer, readers = caller("login"), [caller("reporter"), caller("ann", "cache.read:own")]
    for method in SERVICE.methods:
        writes = scopes()[f"/{SERVICE.full_name}/{method.name}"] == "cache.write"
        assert await refused(guarded, method, writer) == ("" if writes else "NAMESPACE_DENIED"), method.name
        for reader in readers:
            assert await refused(guarded, method, reader) == ("NAMESPACE_DENIED" if writes else ""), method.name
        for stranger in strangers:
            assert await refused(guarded, method, stranger) == "UNKNOWN_NAMESPACE", method.name
        assert await refused(guarded, method, strangers[0], "small") == "", method.name


async def test_groups_are_members(guarded: Cache, caller: Caller) -> None:
    """
    Members of a group that a list names have its permission, and nobody else: neither a subject nor a scope of that
    name, nor the other list's group.
    """
    get, put = SERVICE.methods_by_name["Get"], SERVICE.methods_by_name["Set"]
    reader, writer = caller("ann", groups=["Site Reliability"]), caller("ben", groups=["staff", "logins"])
    assert [await refused(guarded, method, reader) for method in (get, put)] == ["", "NAMESPACE_DENIED"]
    assert [await refused(guarded, method, writer) for method in (get, put)] == ["NAMESPACE_DENIED", ""]
    strangers = [caller("logins"), caller("ann", "logins", "group:logins"), caller("ann", groups=["Site", "login"])]
    for stranger in strangers:
        assert [await refused(guarded, method, stranger) for method in (get, put)] == ["UNKNOWN_NAMESPACE"] * 2


async def test_callers_through_the_gateway_see_its_namespaces_only(target: str, store: Backend, folder: Path) -> None:
    """
    A call forwarded by the gateway finds the namespaces with `gateway = true`, and no others.
    """
    (folder / "own.toml").write_text(SMALL.replace("near = true", "near = true\ngateway = true"))
    async with running(target, store, MODELYARD_CACHE_NAMESPACES_FILE=str(folder / "own.toml")) as cache:
        passed_on = (("x-modelyard-client", "203.0.113.7"),)
        for method in SERVICE.methods:
            assert await refused(cache, method, passed_on, "close") == "", method.name
            assert await refused(cache, method, passed_on, "small") == "UNKNOWN_NAMESPACE", method.name
            assert await refused(cache, method, (), "small") == "", method.name


async def test_a_restricted_namespace_needs_access_control(target: str, store: Backend, folder: Path) -> None:
    """
    Without access control, a restricted namespace rejects all callers with NAMESPACE_NEEDS_ACCESS.
    """
    async with running(target, store, MODELYARD_CACHE_NAMESPACES_FILE=str(folder / "own.toml")) as cache:
        said = (("x-modelyard-subject", "login"), ("x-modelyard-scopes", "cache.read:own"))
        assert await refused(cache, SERVICE.methods_by_name["Get"], said) == "NAMESPACE_NEEDS_ACCESS"


async def test_the_error_lists_visible_namespaces_only(guarded: Cache, caller: Caller) -> None:
    """
    The error for an unknown namespace lists those that the caller may use.
    """
    get: Any = guarded.channel.unary_unary(f"/{SERVICE.full_name}/Get", pb.GetRequest.SerializeToString, None)
    for metadata, there in ((caller("ann"), "close, small"), (caller("login"), "close, own, small")):
        with pytest.raises(grpc.aio.AioRpcError) as unknown:
            await get(pb.GetRequest(namespace="nonsense", key="k"), metadata=metadata)
        assert str(unknown.value.details()).endswith(there)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (OWN.replace(f"writers = {WRITERS}", ""), "name both"),
        (OWN.replace(WRITERS, '"subject:login"'), "[own] writers: must be a list"),
        (OWN.replace(WRITERS, "[]"), "[own] writers: must be a list"),
        (OWN.replace(WRITERS, '["login"]'), "[own] writers: 'login' is none of"),
        (OWN.replace(WRITERS, '["anybody", "subject:login"]'), "'anybody' is none of"),
        (OWN.replace(WRITERS, '["group:"]'), "[own] writers: 'group:' is none of"),
        (OWN.replace(WRITERS, '["group: web"]'), "[own] writers: 'group: web' is none of"),
        (OWN.replace(WRITERS, '["groups:web"]'), "[own] writers: 'groups:web' is none of"),
        (OWN.replace(WRITERS, '["subject:ann lee"]'), "[own] writers: 'subject:ann lee' is none of"),
        (SMALL.replace("near = true", "gateway = 1"), "[close] gateway: must be true or false"),
    ],
)
def test_bad_users_are_refused(text: str, says: str) -> None:
    """
    Invalid readers and writers are rejected with the place and the fix.
    """
    with pytest.raises(ValueError, match=r"\w") as bad:
        parse(text)
    assert says in str(bad.value)


def test_anybody_is_every_caller_with_the_scope() -> None:
    """
    One of the two lists may be ["anybody"].
    """
    found = parse(OWN.replace(WRITERS, '["anybody"]'))["own"]
    assert found.writers is None
    assert found.readers is not None
    assert found.readers.include("reporter", ())
