"""
API tokens: what they may do, for how long, and that nobody can read them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from modelyard.changes.v1 import changes_pb2
from modelyard.registry.v1 import (
    audit_pb2,
    models_pb2,
    namespaces_pb2,
    policies_pb2,
    tokens_pb2,
)
from services.chassis.access import Keys, Verifier
from services.chassis.access.api_tokens import FORM, LiveToken, UnknownTokenError, hash_of, make
from services.chassis.access.policies import Policies, Readable
from services.chassis.access.roles import Role
from services.chassis.errors import Unauthenticated, Unavailable
from services.registry.tests.guarded import ALL, Guarded
from services.registry.tests.server import Failing, Registry, running
from tests.tokens import AUDIENCE, ISSUER, Issuer, settings

ROLE = policies_pb2.Policy
BYTES = f"{ALL} assets.read assets.write"
TOKEN = tokens_pb2.ApiToken
HOUR = 3600


@pytest.fixture(scope="module")
async def guarded(new_database: Callable[[], str], tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Guarded]:
    """
    A registry with access control on, with a namespace "team" of "ann", and one "other" in which everybody may write.
    """
    issuer = Issuer(tmp_path_factory.mktemp("keys") / "jwks.json")
    async with running(new_database(), **settings(issuer)) as registry:
        found = Guarded(registry, issuer)
        async with asyncio.timeout(10):
            while not await started(found):
                await asyncio.sleep(0.01)
        await found.namespace("team", "ann")
        await found.namespace("other", "bob")
        yield found


async def started(guarded: Guarded) -> bool:
    """
    Whether the policies have been read.
    """
    try:
        await guarded.registry.namespaces.ListNamespaces(namespaces_pb2.ListNamespacesRequest(), **guarded.as_("ann"))
    except grpc.aio.AioRpcError:
        return False
    return True


def draft(role: int = ROLE.ROLE_WRITER, *scopes: str, seconds: float = HOUR) -> TOKEN:
    """
    What a client sends to create a token.
    """
    expires = Timestamp()
    expires.FromNanoseconds(int((time.time() + seconds) * 1e9))
    return TOKEN(display_name="ci", role=ROLE.Role.ValueType(role), scopes=scopes, expire_time=expires)


async def create(
    guarded: Guarded, role: int = ROLE.ROLE_WRITER, *scopes: str, **more: Any
) -> tokens_pb2.CreateApiTokenResponse:
    """
    A token of "team", created by its owner.
    """
    request = tokens_pb2.CreateApiTokenRequest(parent="namespaces/team", api_token=draft(role, *scopes), **more)
    return await guarded.registry.api_tokens.CreateApiToken(request, **guarded.as_("ann", BYTES))


async def revoke(guarded: Guarded, name: str) -> int:
    """
    Revoke a token; the revision of that.
    """
    request = tokens_pb2.RevokeApiTokenRequest(name=name)
    return (await guarded.registry.api_tokens.RevokeApiToken(request, **guarded.as_("ann"))).revision


def with_(secret: str, *more: tuple[str, str]) -> dict[str, Any]:
    """
    The arguments of a call with a token.
    """
    return {"metadata": [("authorization", f"Bearer {secret}"), *more]}


async def read(guarded: Guarded, secret: str, *more: tuple[str, str], namespace: str = "team") -> None:
    """
    Read a namespace.
    """
    request = namespaces_pb2.GetNamespaceRequest(name=f"namespaces/{namespace}")
    await guarded.registry.namespaces.GetNamespace(request, **with_(secret, *more))


async def write(guarded: Guarded, secret: str, model: str, namespace: str = "team") -> models_pb2.Model:
    """
    Create a model.
    """
    request = models_pb2.CreateModelRequest(parent=f"namespaces/{namespace}", model_id=model)
    return await guarded.registry.models.CreateModel(request, **with_(secret))


async def test_a_token_has_its_role_and_no_more(guarded: Guarded) -> None:
    """
    A reader reads and a writer writes, although everybody else may do more by the policy of the registry.
    """
    reader, writer = await create(guarded, ROLE.ROLE_READER, "registry.read"), await create(guarded)
    await read(guarded, reader.secret)
    with Failing() as failed:
        await write(guarded, reader.secret, "no")
    assert (failed.code, failed.reason) == (grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING")
    made = await write(guarded, writer.secret, "m")
    with Failing() as failed:
        await guarded.registry.models.DeleteModel(models_pb2.DeleteModelRequest(name=made.name), **with_(writer.secret))
    assert failed.metadata["permission"] == "models.delete"


async def test_a_token_writes_nothing_elsewhere(guarded: Guarded) -> None:
    """
    In another namespace a token reads what everybody may read, and writes nothing, not even what everybody may.
    """
    owner = await create(guarded, ROLE.ROLE_OWNER)
    await read(guarded, owner.secret, namespace="other")
    with Failing() as failed:
        await write(guarded, owner.secret, "m", "other")
    assert failed.metadata == {"permission": "models.write", "resource": "namespaces/other"}
    with Failing() as failed:
        request = namespaces_pb2.CreateNamespaceRequest(namespace_id="mine")
        await guarded.registry.namespaces.CreateNamespace(request, **with_(owner.secret))
    assert failed.metadata["permission"] == "namespaces.create"


async def test_private_namespaces(guarded: Guarded) -> None:
    """
    A token sees its own private namespace, also in lists, and no other, not even one whose policy names its subject.
    """
    await guarded.namespace("mine", "ann")
    await guarded.namespace("theirs", "bob")
    await guarded.set_policy("namespaces/mine/policy", private=True, owner="user:ann")
    request = tokens_pb2.CreateApiTokenRequest(parent="namespaces/mine", api_token=draft(ROLE.ROLE_READER))
    secret = (await guarded.registry.api_tokens.CreateApiToken(request, **guarded.as_("ann", BYTES))).secret
    named = f"user:token:mine/{secret[3:13]}"
    await guarded.set_policy("namespaces/theirs/policy", private=True, owner="user:bob", reader=named)
    await read(guarded, secret, namespace="mine")
    with Failing() as failed:
        await read(guarded, secret, namespace="theirs")
    assert failed.reason == "NAMESPACE_NOT_FOUND"
    page = await guarded.registry.namespaces.ListNamespaces(
        namespaces_pb2.ListNamespacesRequest(page_size=1000), **with_(secret)
    )
    found = {each.name for each in page.namespaces}
    assert "namespaces/mine" in found
    assert "namespaces/theirs" not in found


async def test_narrower_scopes(guarded: Guarded) -> None:
    """
    A writer with the scope to read only reads; scopes that its role has no use for cannot be asked for.
    """
    narrow = await create(guarded, ROLE.ROLE_WRITER, "registry.read")
    assert list(narrow.api_token.scopes) == ["registry.read"]
    with Failing() as failed:
        await write(guarded, narrow.secret, "narrow")
    assert failed.metadata["scope"] == "registry.write"
    for scope in ("admin", "registry.follow", "assets.pin"):
        with Failing() as failed:
            await create(guarded, ROLE.ROLE_OWNER, scope)
        assert list(failed.fields) == ["api_token.scopes"]


async def test_nobody_gives_away_what_they_do_not_have(guarded: Guarded) -> None:
    """
    A creator has the token's scopes, and is no API token: what an owner's token made would outlive its revocation.
    """
    request = tokens_pb2.CreateApiTokenRequest(parent="namespaces/team", api_token=draft())
    with Failing() as failed:
        await guarded.registry.api_tokens.CreateApiToken(request, **guarded.as_("ann"))
    assert failed.metadata["scope"] == "assets.read"
    owner = await create(guarded, ROLE.ROLE_OWNER)
    with Failing() as failed:
        await guarded.registry.api_tokens.CreateApiToken(request, **with_(owner.secret))
    assert failed.reason == "API_TOKEN"
    with Failing() as failed:
        await guarded.registry.api_tokens.CreateApiToken(request, **guarded.as_("bob", BYTES))
    assert failed.metadata["permission"] == "tokens.write"


async def test_a_new_token_is_accepted_at_once(guarded: Guarded) -> None:
    """
    Who has been told a secret can use it, before the process has heard of the token by itself.
    """
    for _ in range(10):
        await read(guarded, (await create(guarded)).secret)


async def test_a_revocation_holds_for_its_revision(guarded: Guarded) -> None:
    """
    A call that has seen the revocation is refused, and soon every call is; revoking again changes nothing.
    """
    for _ in range(5):
        made = await create(guarded)
        await read(guarded, made.secret)
        revision = await revoke(guarded, made.api_token.name)
        with Failing() as failed:
            await read(guarded, made.secret, ("x-min-revision", str(revision)))
        assert (failed.code, failed.reason) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID")
        with Failing() as failed:
            await read(guarded, made.secret)
        assert failed.reason == "TOKEN_INVALID"
    assert await revoke(guarded, made.api_token.name) == revision


async def test_a_revocation_among_calls(guarded: Guarded) -> None:
    """
    Calls at the time of a revocation succeed or are refused, and after the first that is refused none succeeds.
    """
    made = await create(guarded)
    await read(guarded, made.secret)
    refused = asyncio.Event()

    async def call() -> grpc.StatusCode:
        while True:
            late = refused.is_set()
            try:
                await read(guarded, made.secret)
            except grpc.aio.AioRpcError as error:
                refused.set()
                return error.code()
            assert not late

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        calls = [group.create_task(call()) for _ in range(4)]
        await revoke(guarded, made.api_token.name)
    assert {each.result() for each in calls} == {grpc.StatusCode.UNAUTHENTICATED}


async def test_a_stream_ends_with_its_token(guarded: Guarded) -> None:
    """
    A revocation ends the open streams of the token, and no others.
    """
    made, other = await create(guarded), await create(guarded)
    request = changes_pb2.WatchChangesRequest(resource_prefix="namespaces/team")
    watches = [guarded.registry.changes.WatchChanges(request, **with_(each.secret)) for each in (made, other)]
    for watch in watches:
        await watch.read()
    await revoke(guarded, made.api_token.name)
    with Failing() as failed:
        async with asyncio.timeout(10):
            while isinstance(await watches[0].read(), changes_pb2.WatchChangesResponse):
                pass
    assert failed.reason == "TOKEN_INVALID"
    async with asyncio.timeout(10):
        assert isinstance(await watches[1].read(), changes_pb2.WatchChangesResponse)
    watches[1].cancel()


async def test_an_expired_token_is_refused(guarded: Guarded) -> None:
    """
    After its time a token is refused with TOKEN_EXPIRED, and listed as expired.
    """
    made = await create(guarded)
    await read(guarded, made.secret)
    async with guarded.registry.owner() as connection:
        # The clock skew that is tolerated is ten seconds.
        await connection.execute(
            "UPDATE api_tokens SET expire_time = now() - interval '11 seconds' WHERE token_id = $1",
            made.api_token.name.rpartition("/")[2],
        )
    # Any change of the namespace's tokens reads them again.
    await guarded.seen((await create(guarded)).api_token.revision)
    with Failing() as failed:
        await read(guarded, made.secret)
    assert (failed.code, failed.reason) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_EXPIRED")
    found = await guarded.registry.api_tokens.GetApiToken(
        tokens_pb2.GetApiTokenRequest(name=made.api_token.name), **guarded.as_("ann")
    )
    assert found.state == TOKEN.STATE_EXPIRED


async def test_tokens_set_no_policies(guarded: Guarded) -> None:
    """
    An owner's token does not say who may do what: that would outlive its revocation.
    """
    owner = await create(guarded, ROLE.ROLE_OWNER)
    name = "namespaces/team/policy"
    before = await guarded.registry.policies.GetPolicy(policies_pb2.GetPolicyRequest(name=name), **with_(owner.secret))
    bindings = [*before.bindings, ROLE.Binding(role=ROLE.ROLE_OWNER, members=["user:mallory"])]
    request = policies_pb2.SetPolicyRequest(policy=ROLE(name=name, bindings=bindings))
    with Failing() as failed:
        await guarded.registry.policies.SetPolicy(request, **with_(owner.secret))
    assert (failed.code, failed.reason) == (grpc.StatusCode.PERMISSION_DENIED, "API_TOKEN")
    after = await guarded.registry.policies.GetPolicy(policies_pb2.GetPolicyRequest(name=name), **guarded.as_("ann"))
    assert after == before


async def test_unknown_tokens(guarded: Guarded) -> None:
    """
    A typo is told by the checksum, what has another form by its form, and what never existed is refused.
    """
    _, unknown = make()
    typo = unknown[:20] + ("a" if unknown[20] != "a" else "b") + unknown[21:]
    for secret, word in ((typo, "typo"), (unknown[:-1], "complete"), (unknown, "never existed")):
        with Failing() as failed:
            await read(guarded, secret)
        assert (failed.code, failed.reason) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID")
        assert word in failed.message
        assert secret not in failed.message


async def test_subjects_of_tokens_are_theirs(guarded: Guarded) -> None:
    """
    No issuer can sign a token with the subject of an API token.
    """
    name = (await create(guarded)).api_token.name
    _, namespace, _, token_id = name.split("/")
    with Failing() as failed:
        request = namespaces_pb2.GetNamespaceRequest(name="namespaces/team")
        await guarded.registry.namespaces.GetNamespace(request, **guarded.as_(f"token:{namespace}/{token_id}"))
    assert failed.reason == "TOKEN_INVALID"


async def test_the_secret_is_nowhere(guarded: Guarded, caplog: pytest.LogCaptureFixture) -> None:
    """
    No table, no log record, no audit entry and no answer but the first has the secret.
    """
    caplog.set_level(logging.DEBUG)
    request = tokens_pb2.CreateApiTokenRequest(parent="namespaces/team", api_token=draft(), request_id="once")
    made = await guarded.registry.api_tokens.CreateApiToken(request, **guarded.as_("ann", BYTES))
    assert FORM.fullmatch(made.secret)
    again = await guarded.registry.api_tokens.CreateApiToken(request, **guarded.as_("ann", BYTES))
    assert (again.api_token.name, again.secret) == (made.api_token.name, "")
    await read(guarded, made.secret)
    for wrong in (made.secret[:-1], made.secret + "x"):
        with Failing():
            await read(guarded, wrong)
    # Not even the random part of it, whatever is round it.
    secret = made.secret.rpartition("_")[2]
    async with guarded.registry.owner() as connection:
        tables = [
            row["name"]
            for row in await connection.fetch(
                "SELECT relname AS name FROM pg_class WHERE relkind IN ('r', 'p')"
                " AND relnamespace = current_schema()::regnamespace"
            )
        ]
        assert {"requests", "audit", "changes", "api_tokens"} <= set(tables)
        for table in tables:
            rows = await connection.fetch(f'SELECT * FROM "{table}"')  # noqa: S608 - names of tables
            for row in rows:
                assert secret not in repr(tuple(row)), table
        stored = await connection.fetchval("SELECT hash FROM api_tokens WHERE token_id = $1", made.secret[3:13])
    assert stored == hash_of(made.secret)
    assert secret not in caplog.text
    listed = await guarded.registry.api_tokens.ListApiTokens(
        tokens_pb2.ListApiTokensRequest(parent="namespaces/team", page_size=1000), **guarded.as_("ann")
    )
    assert made.api_token.name in {each.name for each in listed.api_tokens}
    assert secret not in repr(listed)


async def test_the_audit_names_tokens(guarded: Guarded) -> None:
    """
    The audit log has the creation and the revocation of a token, and its subject for what it wrote.
    """
    made = await create(guarded)
    await write(guarded, made.secret, "audited")
    await revoke(guarded, made.api_token.name)
    request = audit_pb2.ListAuditEntriesRequest(resource_prefix=made.api_token.name)
    entries = (await guarded.registry.audit.ListAuditEntries(request, **guarded.as_("ann"))).entries
    assert [(each.action, each.actor) for each in entries] == [("RevokeApiToken", "ann"), ("CreateApiToken", "ann")]
    assert entries[1].after["display_name"] == "ci"
    request = audit_pb2.ListAuditEntriesRequest(resource_prefix="namespaces/team/models/audited")
    entries = (await guarded.registry.audit.ListAuditEntries(request, **guarded.as_("ann"))).entries
    assert entries[0].actor == f"token:team/{made.api_token.name.rpartition('/')[2]}"


async def test_the_last_use_is_shown(guarded: Guarded) -> None:
    """
    A token shows that it was used, by calls that this process verified and by those that other services report; an
    older use does not replace a newer one.
    """
    made = await create(guarded)
    name = tokens_pb2.GetApiTokenRequest(name=made.api_token.name)

    async def used() -> int:
        found = await guarded.registry.api_tokens.GetApiToken(name, **guarded.as_("ann"))
        return found.last_use_time.seconds

    assert await used() == 0
    before = int(time.time())
    await read(guarded, made.secret)
    async with asyncio.timeout(10):
        while not await used():
            await asyncio.sleep(0.05)
    first = await used()
    assert first >= before
    for seconds, expected in ((first - 100, first), (first + 10_000, None)):
        use = tokens_pb2.RecordTokenUseRequest.Use(name=name.name, time=Timestamp(seconds=seconds))
        gone = tokens_pb2.RecordTokenUseRequest.Use(name="namespaces/team/tokens/0000000000", time=use.time)
        await guarded.registry.api_tokens.RecordTokenUse(
            tokens_pb2.RecordTokenUseRequest(uses=[use, gone]), **guarded.as_("cache", "registry.follow")
        )
        # What is in the future is now.
        assert (await used() == expected) if expected else (first <= await used() <= int(time.time()) + 1)


async def test_tokens_go_with_their_namespace(guarded: Guarded) -> None:
    """
    Another namespace of the same name does not accept the tokens of the one before.
    """
    await guarded.namespace("brief", "ann")
    request = tokens_pb2.CreateApiTokenRequest(parent="namespaces/brief", api_token=draft())
    secret = (await guarded.registry.api_tokens.CreateApiToken(request, **guarded.as_("ann", BYTES))).secret
    await read(guarded, secret, namespace="brief")
    await guarded.registry.namespaces.DeleteNamespace(
        namespaces_pb2.DeleteNamespaceRequest(name="namespaces/brief"), **guarded.as_("ann")
    )
    await guarded.namespace("brief", "ann")
    with Failing() as failed:
        await read(guarded, secret, namespace="brief")
    assert failed.reason == "TOKEN_INVALID"


async def test_the_stream_tells_all_tokens(guarded: Guarded) -> None:
    """
    The stream that services follow begins with the live tokens, and tells of one that is created and of one that is
    revoked; revoked ones are in no snapshot.
    """
    gone = await create(guarded)
    await revoke(guarded, gone.api_token.name)
    kept = await create(guarded)
    watch = guarded.registry.policies.WatchPolicies(
        policies_pb2.WatchPoliciesRequest(), **guarded.as_("cache", "registry.follow")
    )
    told: set[bytes] = set()

    async def next_set() -> set[bytes]:
        async with asyncio.timeout(10):
            async for message in watch:
                for each in message.tokens:
                    if each.parent == "namespaces/team":
                        return {token.hash for token in each.tokens}
        raise AssertionError("the stream has ended")

    told = await next_set()
    assert hash_of(kept.secret) in told
    assert hash_of(gone.secret) not in told
    another = await create(guarded)
    assert hash_of(another.secret) in await next_set()
    await revoke(guarded, kept.api_token.name)
    assert await next_set() == (told | {hash_of(another.secret)}) - {hash_of(kept.secret)}
    watch.cancel()


@pytest.mark.parametrize(
    ("token", "field"),
    [
        (draft(ROLE.ROLE_UNSPECIFIED), "api_token.role"),
        (draft(seconds=-1), "api_token.expire_time"),
        (draft(seconds=367 * 86400), "api_token.expire_time"),
        (TOKEN(role=ROLE.ROLE_READER), "api_token.expire_time"),
        (draft(ROLE.ROLE_READER, "registry.write"), "api_token.scopes"),
        (
            TOKEN(role=ROLE.ROLE_READER, display_name="x" * 201, expire_time=draft().expire_time),
            "api_token.display_name",
        ),
    ],
)
async def test_bad_tokens(shared: Registry, token: TOKEN, field: str) -> None:
    """
    An invalid token is rejected with its field.
    """
    with Failing() as failed:
        request = tokens_pb2.CreateApiTokenRequest(parent="namespaces/default", api_token=token)
        await shared.api_tokens.CreateApiToken(request)
    assert failed.code is grpc.StatusCode.INVALID_ARGUMENT
    assert list(failed.fields) == [field]


async def test_while_access_control_is_off(shared: Registry) -> None:
    """
    Tokens can be created, listed in pages and revoked while nothing asks for them.
    """
    await shared.namespaces.CreateNamespace(namespaces_pb2.CreateNamespaceRequest(namespace_id="prepared"))
    request = tokens_pb2.CreateApiTokenRequest(parent="namespaces/prepared", api_token=draft())
    names = [(await shared.api_tokens.CreateApiToken(request)).api_token.name for _ in range(3)]
    revoked = await shared.api_tokens.RevokeApiToken(tokens_pb2.RevokeApiTokenRequest(name=names[0]))
    assert revoked.state == TOKEN.STATE_REVOKED
    found: list[TOKEN] = []
    page = tokens_pb2.ListApiTokensRequest(parent="namespaces/prepared", page_size=2)
    while True:
        answer = await shared.api_tokens.ListApiTokens(page)
        found += answer.api_tokens
        if not answer.next_page_token:
            break
        page.page_token = answer.next_page_token
    assert [each.name for each in found] == names[::-1]
    assert [each.state for each in found] == [TOKEN.STATE_ACTIVE, TOKEN.STATE_ACTIVE, TOKEN.STATE_REVOKED]


async def test_a_namespace_has_a_limit(shared: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A namespace has a number of tokens at most, of which the revoked do not count; concurrent creations share it.
    """
    monkeypatch.setattr("services.registry.store.api_tokens.MOST_TOKENS", 3)
    await shared.namespaces.CreateNamespace(namespaces_pb2.CreateNamespaceRequest(namespace_id="many"))
    request = tokens_pb2.CreateApiTokenRequest(parent="namespaces/many", api_token=draft())
    made = await asyncio.gather(*(shared.api_tokens.CreateApiToken(request) for _ in range(6)), return_exceptions=True)
    good = [each for each in made if not isinstance(each, BaseException)]
    assert len(good) == 3
    with Failing() as failed:
        await shared.api_tokens.CreateApiToken(request)
    assert (failed.code, failed.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_TOKENS")
    await shared.api_tokens.RevokeApiToken(tokens_pb2.RevokeApiTokenRequest(name=good[0].api_token.name))
    await shared.api_tokens.CreateApiToken(request)


async def test_what_is_stale_decides_nothing(tmp_path: Path) -> None:
    """
    While the tokens may be out of date, no API token is accepted, known or not, and none is called unknown; a JWT is
    accepted all the same.
    """
    now, issuer = [100.0], Issuer(tmp_path / "jwks.json")
    policies = Policies(bound=2.0, clock=lambda: now[0])
    verifier = Verifier(Keys(file=issuer.file), ISSUER, AUDIENCE)
    verifier.accept_api_tokens(policies)
    token_id, known = make()
    _, unknown = make()
    live = LiveToken(token_id, hash_of(known), Role.READER, frozenset({"registry.read"}), time.time() + HOUR)
    policies.apply({}, {"a": [live]}, complete=True)
    with pytest.raises(Unavailable, match="out of date"):
        verifier.verify(known)
    policies.heard(1, 100.0)
    assert verifier.verify(known).subject == f"token:a/{token_id}"
    with pytest.raises(UnknownTokenError) as missing:
        verifier.verify(unknown)
    now[0] = 101.0
    waits = asyncio.ensure_future(verifier.settle(missing.value))
    await asyncio.sleep(0)
    # Of a time before the call.
    policies.heard(2, 100.5)
    await asyncio.sleep(0)
    assert not waits.done()
    policies.heard(3, 101.0)
    await waits
    with pytest.raises(Unauthenticated) as certain:
        verifier.verify(unknown)
    assert not isinstance(certain.value, UnknownTokenError)
    now[0] = 103.1
    for token in (known, unknown):
        with pytest.raises(Unavailable) as stale:
            verifier.verify(token)
        assert stale.value.reason == "POLICY_STALE"
    assert verifier.verify(issuer.mint("registry.read")).subject == "ann"


def test_a_namespace_without_a_policy() -> None:
    """
    A token sees its namespace where nobody else sees any, although that has no policy.
    """
    policies, (token_id, secret) = Policies(), make()
    live = LiveToken(token_id, hash_of(secret), Role.READER, frozenset({"registry.read"}), time.time() + HOUR)
    policies.apply({}, {"a": [live]}, complete=True)
    policies.heard(1, time.monotonic())
    identity = policies.tokens.find(hash_of(secret))
    assert identity is not None
    assert policies.readable(identity) == Readable(others=False, names=frozenset({"a"}))


async def test_who_does_not_hear_does_not_know(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """
    A token is not called unknown if nothing is heard from the registry in time, nor if too many calls wait for that.
    """
    monkeypatch.setattr("services.chassis.access.tokens._PATIENCE", 0.01)
    verifier = Verifier(Keys(file=Issuer(tmp_path / "jwks.json").file), ISSUER, AUDIENCE)
    policies = Policies()
    verifier.accept_api_tokens(policies)
    error = UnknownTokenError(hash_of(make()[1]))
    with pytest.raises(Unavailable) as uncertain:
        await verifier.settle(error)
    assert uncertain.value.reason == "POLICY_STALE"
    monkeypatch.setattr("services.chassis.access.tokens._MOST_WAITING", 0)
    policies.heard(1, time.monotonic() + HOUR)
    with pytest.raises(Unavailable):
        await verifier.settle(error)


def test_what_is_live_in_memory() -> None:
    """
    A namespace's tokens replace those before; a complete set replaces all; and whoever waits for revocations is told
    of those that are gone, and of nothing else.
    """

    def live(token_id: str, scope: str = "registry.read") -> LiveToken:
        return LiveToken(token_id, token_id.encode(), Role.READER, frozenset({scope, "admin"}), time.time() + HOUR)

    told: list[int] = []
    tokens = Policies().tokens
    tokens.when_revoked(lambda: told.append(1))
    tokens.replace({"a": [live("1"), live("2")], "b": [live("3")]}, complete=True)
    first = tokens.find(b"1")
    assert first is not None
    assert (first.subject, first.scopes, first.grant) == ("token:a/1", frozenset({"registry.read"}), ("a", Role.READER))
    tokens.replace({"a": [live("1"), live("2"), live("4")]})
    assert (told, tokens.find(b"1") is not None, tokens.find(b"3") is not None) == ([], True, True)
    tokens.replace({"a": [live("4")]})
    assert (told, tokens.find(b"1"), tokens.find(b"3") is not None) == ([1], None, True)
    tokens.replace({"a": [live("4")]}, complete=True)
    assert (told, tokens.find(b"3")) == ([1, 1], None)
