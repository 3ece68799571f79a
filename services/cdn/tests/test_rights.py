"""
Who may see an asset: whoever may read a namespace whose version pins it, and whoever uploaded it. For everybody else it
does not exist.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from modelyard import aio
from modelyard.cdn.v1 import assets_pb2 as pb
from modelyard.cdn.v1 import delivery_pb2, uploads_pb2
from modelyard.changes.v1 import changes_pb2
from modelyard.error_details import explain
from services.cdn.tests.access_control import AccessControlled, access_controlled
from services.cdn.tests.calls import chunk, chunks, digest, download, header, some_bytes, stream, upload
from services.cdn.tests.conftest import World
from services.cdn.tests.model_files import safetensors, tensor
from services.chassis.access.behalf import CALLER, on_behalf_of
from services.chassis.access.identity import Identity
from services.chassis.access.roles import Role

SIGN = ("assets.read", "assets.write", "assets.sign", "static.write")
QUOTA = 100 << 20
# What tells two calls apart that say the same.
_PASSING = {"x-request-id"}


@pytest.fixture(scope="module")
async def guarded(world: World, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[AccessControlled]:
    """
    A service of several teams: only root and all read everything; vision is read by ann and her group, secret by eve;
    everybody reads the namespace `open`.
    """
    folder, more = tmp_path_factory.mktemp("guarded"), {"MODELYARD_OWNER_QUOTA_BYTES": str(QUOTA)}
    async with access_controlled(world, folder, MODELYARD_COLLECT_EVERY_SECONDS="0", **more) as found:
        await found.set_policy("", owner="user:root", reader="user:all")
        await found.set_policy("vision", reader="user:ann group:vision")
        await found.set_policy("secret", private=True, reader="user:eve user:all")
        await found.set_policy("open", reader="everyone")
        yield found


async def stored(
    guarded: AccessControlled, version: str = "", data: bytes | None = None, by: str = "uploader"
) -> bytes:
    """
    New bytes, uploaded by *by*, and pinned by namespaces/{version} if that is given.
    """
    data = some_bytes(30) if data is None else data
    async with guarded.as_(by) as client:
        await upload(client.assets, data)
    if version:
        await guarded.pin(version, digest(data))
    return data


async def may(guarded: AccessControlled, who: str, data: bytes, **more: Any) -> bool:
    """
    Whether *who* gets the asset's bytes.
    """
    async with guarded.as_(who, **more) as client:
        call = client.assets.Download(pb.DownloadRequest(name=f"assets/{digest(data)}"))
        try:
            found = b"".join([message.chunk.data async for message in call])
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return False
            raise
    return found == data


async def read_on(call: Any) -> None:
    """
    Read a stream to its end.
    """
    while isinstance(await call.read(), Message):
        pass


async def told(client: aio.Client, data: bytes, sha256: str) -> dict[str, str]:
    """
    What the RPCs tell of an asset: the response or the status, with its name taken out; and the trailers.
    """
    name, found = f"assets/{sha256}", dict[str, str]()

    async def note(what: str, call: Any, keep: Callable[[Any], object] = str) -> None:
        try:
            said: object = keep(await call)
        except grpc.RpcError as error:
            problem = explain(error)
            said = (problem.code, problem.reason, problem.message, problem.metadata)
        trailing = [each for each in await call.trailing_metadata() or () if each[0] not in _PASSING]
        trailing = [(key, value if key == "cache-control" else "") for key, value in trailing]
        found[what] = repr((said, sorted(trailing))).replace(sha256, "…")

    async def bytes_of(**more: Any) -> None:
        call = client.assets.Download(pb.DownloadRequest(name=name, **more))

        class Whole:
            def __await__(self) -> Any:
                return collect().__await__()

            trailing_metadata = staticmethod(call.trailing_metadata)

        async def collect() -> bytes:
            return b"".join([message.chunk.data async for message in call])

        await note(f"Download {more}", Whole())

    await note("GetAsset", client.assets.GetAsset(pb.GetAssetRequest(name=name)))
    await note("GetTensorIndex", client.assets.GetTensorIndex(pb.GetTensorIndexRequest(name=name)))
    await bytes_of()
    await bytes_of(offset=1, limit=2)
    await bytes_of(tensor="secret")
    listing = client.assets.ListAssets(pb.ListAssetsRequest(page_size=1000))
    await note("ListAssets", listing, lambda answer: sha256 in {each.sha256 for each in answer.assets})
    await note("FindMissing", client.assets.FindMissing(pb.FindMissingRequest(sha256=[sha256])))
    for private in (False, True):
        start = uploads_pb2.StartUploadRequest(sha256=sha256, size_bytes=len(data) + 1, private=private)
        call = client.uploads.StartUpload(start)
        await note(f"StartUpload {private}", call, lambda answer: answer.complete)
    await note("Upload, the header alone", client.assets.Upload(stream(header(data, sha256=sha256))))
    await note("SignUrl", client.delivery.SignUrl(delivery_pb2.SignUrlRequest(asset=name)))
    put = delivery_pb2.PutStaticFileRequest(static_file=delivery_pb2.StaticFile(name="static/x", asset=name))
    await note("PutStaticFile", client.delivery.PutStaticFile(put))
    return found


async def test_strangers_are_told_nothing(guarded: AccessControlled) -> None:
    """
    To whoever may not see an asset, every RPC says the same as of one that was never uploaded: message, details,
    headers.
    """
    data = safetensors({"secret": tensor(0, 4, [1])}, 4)
    await stored(guarded, "vision/models/m/versions/1", data)
    async with guarded.as_("mallory", *SIGN) as mallory:
        hidden, absent = [await told(mallory, data, sha256) for sha256 in (digest(data), digest(some_bytes(9)))]
    assert hidden == absent
    async with guarded.as_("ann", *SIGN) as ann:
        seen = await told(ann, data, digest(data))
    assert [what for what in seen if seen[what] == hidden[what]] == []


async def test_readers_of_a_namespace_see_what_it_pins(guarded: AccessControlled) -> None:
    """
    A namespace's readers, by name or by group, get the bytes that its versions pin, and nobody else does.
    """
    data = await stored(guarded, "vision/models/m/versions/1")
    assert await may(guarded, "ann", data)
    assert await may(guarded, "ben", data, groups=("vision",))
    assert not await may(guarded, "ben", data, groups=("visions",))
    assert not await may(guarded, "eve", data)


async def test_private_namespaces(guarded: AccessControlled) -> None:
    """
    What a private namespace pins is for its readers and the registry's owners, not for the registry's other readers.
    """
    data = await stored(guarded, "secret/models/m/versions/1")
    await guarded.set_policy("", owner="user:root", reader="user:all user:rita")
    assert [await may(guarded, who, data) for who in ("eve", "root", "rita", "ann")] == [True, True, False, False]
    open_to_rita = await stored(guarded, "vision/models/m/versions/2")
    assert await may(guarded, "rita", open_to_rita)


async def test_uploaders_see_what_they_uploaded(guarded: AccessControlled) -> None:
    """
    Whoever has uploaded an asset sees it, whoever pins it. A static file's pin gives nobody a right.
    """
    data = await stored(guarded, by="zoe")
    assert [await may(guarded, who, data) for who in ("zoe", "ann", "all")] == [True, False, True]
    await guarded.pin("secret/models/m/versions/1", digest(data))
    async with guarded.as_("modelyard-registry", "assets.pin") as registry:
        await registry.assets.Pin(pb.PinRequest(names=[f"assets/{digest(data)}"], owner="static/vision/x"))
    assert [await may(guarded, who, data) for who in ("zoe", "ann")] == [True, False]


async def test_unknown_uploader(guarded: AccessControlled) -> None:
    """
    An asset that nobody pins and whose uploader is not known, as those of earlier releases, is for those who may read
    all namespaces.
    """
    data = await stored(guarded, by="earlier")
    assert await may(guarded, "earlier", data)
    async with guarded.connection() as database:
        await database.execute("DELETE FROM uploaders WHERE sha256 = $1", digest(data))
    found = [await may(guarded, who, data) for who in ("all", "root", "rita", "earlier", "ann")]
    assert found == [True, True, False, False, False]


async def test_break_glass(guarded: AccessControlled) -> None:
    """
    The scope `admin` sees every asset.
    """
    data = await stored(guarded, "secret/models/m/versions/2")
    async with guarded.as_("mallory", "assets.read", "admin") as admin:
        assert (await download(admin.assets, f"assets/{digest(data)}"))[0] == data


async def test_everyone(guarded: AccessControlled) -> None:
    """
    Where `everyone` may read, callers without a token do, too; private assets need one.
    """
    data, private = some_bytes(20), some_bytes(21)
    declared = pb.UploadRequest.Header(sha256=digest(private), size_bytes=21, private=True)
    async with guarded.as_("zoe") as zoe:
        await upload(zoe.assets, data)
        await zoe.assets.Upload(stream(pb.UploadRequest(header=declared), chunk(0, private)))
    async with aio.connect(guarded.cdn.target) as nobody:
        for pinned in (False, True):
            if pinned:
                await guarded.pin("open/models/m/versions/1", digest(data), digest(private))
            for sha256, visible in ((digest(data), pinned), (digest(private), False)):
                missing = await nobody.assets.FindMissing(pb.FindMissingRequest(sha256=[sha256]))
                assert (sha256 not in missing.sha256) == visible
    assert await may(guarded, "mallory", private)


async def test_the_digest_is_no_proof(guarded: AccessControlled) -> None:
    """
    Bytes that somebody else has stored are not stored for an uploader until it has sent all of them; wrong bytes are
    rejected and give nothing. Then it sees the asset.
    """
    data = await stored(guarded, "vision/models/m/versions/1")
    async with guarded.as_("mallory") as mallory:
        for messages in ([header(data)], [header(data), chunk(0, data[:-1] + b"?")]):
            with pytest.raises(grpc.RpcError):
                await mallory.assets.Upload(stream(*messages))
            assert not await may(guarded, "mallory", data)
        assert (await upload(mallory.assets, data)).sha256 == digest(data)
    assert await may(guarded, "mallory", data)
    assert not await may(guarded, "eve", data)


async def test_the_digest_is_no_proof_to_resumable_uploads(guarded: AccessControlled) -> None:
    """
    The same for uploads in sessions: they cannot be finished without the bytes. The name that an upload of stored bytes
    gets follows from the digest, and finishes nothing for others.
    """
    data = await stored(guarded, "vision/models/m/versions/1")
    start = uploads_pb2.StartUploadRequest(sha256=digest(data), size_bytes=len(data))
    async with guarded.as_("ann") as ann, guarded.as_("mallory") as mallory:
        known = await ann.uploads.StartUpload(start)
        assert known.complete
        begun = await mallory.uploads.StartUpload(start)
        assert not begun.complete
        for name in (known.name, begun.name):
            with pytest.raises(grpc.RpcError):
                await mallory.uploads.FinishUpload(uploads_pb2.FinishUploadRequest(name=name))

        async def whole() -> AsyncIterator[uploads_pb2.WriteUploadRequest]:
            yield uploads_pb2.WriteUploadRequest(name=begun.name, chunk=pb.Chunk(offset=0, data=data))

        await mallory.uploads.WriteUpload(whole())
        for _ in range(2):
            finished = await mallory.uploads.FinishUpload(uploads_pb2.FinishUploadRequest(name=begun.name))
            assert finished.sha256 == digest(data)
        assert (await mallory.uploads.StartUpload(start)).complete
    assert await may(guarded, "mallory", data)


async def test_revoked_rights(guarded: AccessControlled) -> None:
    """
    Who is bound no more gets nothing more, and a download in progress ends.
    """
    data = await stored(guarded, "moving/models/m/versions/1", some_bytes(24 << 20))
    await guarded.set_policy("moving", reader="user:ann")
    async with guarded.as_("ann") as ann:
        call = ann.assets.Download(pb.DownloadRequest(name=f"assets/{digest(data)}"))
        await call.read()
        await guarded.set_policy("moving", reader="user:ben")
        with pytest.raises(grpc.RpcError) as ended:
            await read_on(call)
    assert (ended.value.code(), explain(ended.value).reason) == (
        grpc.StatusCode.PERMISSION_DENIED,
        "PERMISSION_REVOKED",
    )
    assert [await may(guarded, who, data) for who in ("ann", "ben")] == [False, True]


async def test_moved_pins(guarded: AccessControlled) -> None:
    """
    Rights follow the pins: an asset is for the readers of the namespaces that pin it now.
    """
    data, sizes = some_bytes(20), {}
    await stored(guarded, "vision/models/m/versions/7", data)
    sizes["before"] = await may(guarded, "ann", data), await may(guarded, "eve", data)
    await guarded.pin("secret/models/m/versions/7", digest(data))
    async with guarded.as_("modelyard-registry", "assets.pin") as registry:
        await registry.assets.Unpin(pb.UnpinRequest(owner="namespaces/vision/models/m/versions/7"))
    sizes["after"] = await may(guarded, "ann", data), await may(guarded, "eve", data)
    assert sizes == {"before": (True, False), "after": (False, True)}


async def test_the_registry_asks_for_its_callers(guarded: AccessControlled) -> None:
    """
    The registry pins for a caller only what that caller may see, and finds nothing else for it. What other callers say
    about on whose behalf they call counts for nothing.
    """
    data = await stored(guarded, "vision/models/m/versions/1")
    names = [f"assets/{digest(data)}"]

    def of(subject: str, *groups: str) -> tuple[tuple[str, str], ...]:
        listed = ",".join(f'"{each}"' for each in groups)
        return ((CALLER, f'{{"subject":"{subject}","groups":[{listed}],"admin":false}}'),)

    async with guarded.as_("modelyard-registry", "assets.read", "assets.pin") as registry:
        pin = pb.PinRequest(names=names, owner="namespaces/mallory/models/m/versions/1")
        get = pb.GetAssetRequest(name=names[0])
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: registry.assets.Pin(pin, metadata=of("mallory")),
            lambda: registry.assets.GetAsset(get, metadata=of("mallory")),
        ]
        for call in calls:
            with pytest.raises(grpc.RpcError) as refused:
                await call()
            assert (refused.value.code(), explain(refused.value).reason) == (
                grpc.StatusCode.NOT_FOUND,
                "ASSET_NOT_FOUND",
            )
        missing = pb.FindMissingRequest(sha256=[digest(data)])
        assert (await registry.assets.FindMissing(missing, metadata=of("mallory"))).sha256
        assert not (await registry.assets.FindMissing(missing, metadata=of("mallory", "vision"))).sha256
        assert (await registry.assets.Pin(pin, metadata=of("ann"))).pinned_count == 1
    async with guarded.as_("mallory") as mallory:
        with pytest.raises(grpc.RpcError):
            await mallory.assets.GetAsset(get, metadata=of("ann"))


async def test_the_registry_asks_for_api_tokens(guarded: AccessControlled) -> None:
    """
    The registry pins for an API token what the token's own namespace has pinned, although that is private, and nothing
    of another one.
    """
    data = await stored(guarded, "secret/models/m/versions/8")

    def of(namespace: str) -> tuple[tuple[str, str], ...]:
        return on_behalf_of(
            Identity(f"token:{namespace}/0123456789", frozenset(), float("inf"), grant=(namespace, Role.WRITER))
        )

    async with guarded.as_("modelyard-registry", "assets.read", "assets.pin") as registry:
        pin = pb.PinRequest(names=[f"assets/{digest(data)}"], owner="namespaces/secret/models/m/versions/9")
        with pytest.raises(grpc.RpcError) as refused:
            await registry.assets.Pin(pin, metadata=of("vision"))
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND
        assert (await registry.assets.Pin(pin, metadata=of("secret"))).pinned_count == 1


async def test_lists_and_totals(guarded: AccessControlled) -> None:
    """
    Lists, of all and of one owner, and totals contain what the caller may see.
    """
    version = "secret/models/listed/versions/1"
    data = await stored(guarded, version)
    for who, sees in (("eve", True), ("ann", False)):
        async with guarded.as_(who) as client:
            owner = pb.ListAssetsRequest(owner=f"namespaces/{version}")
            for request in (owner, pb.ListAssetsRequest(page_size=1000)):
                listed = {each.sha256 for each in (await client.assets.ListAssets(request)).assets}
                assert (digest(data) in listed) is sees
            totals = await client.assets.GetStorageTotals(pb.GetStorageTotalsRequest(page_size=1000))
            owners = {each.owner: each.bytes for each in totals.owners}
            assert (f"namespaces/{version}" in owners) is sees
            assert totals.stored_bytes == sum(owners.values())


async def test_lists_of_what_a_hidden_version_pins(guarded: AccessControlled) -> None:
    """
    Which of the assets that a caller sees are those of a version is not told to whoever may not read the version: the
    list is that of a version that pins nothing. Of a static file, which is as readable as its asset, it is told.
    """
    version = "secret/models/guessed/versions/1"
    data = await stored(guarded, version, by="mallory")
    async with guarded.as_("modelyard-registry", "assets.pin") as registry:
        await registry.assets.Pin(pb.PinRequest(names=[f"assets/{digest(data)}"], owner="static/secret/x"))
    for who, owner, sees in (
        ("mallory", f"namespaces/{version}", False),
        ("mallory", "namespaces/secret/models/guessed/versions/2", False),
        ("mallory", "static/secret/x", True),
        ("all", f"namespaces/{version}", True),
    ):
        async with guarded.as_(who) as client:
            listed = await client.assets.ListAssets(pb.ListAssetsRequest(owner=owner))
        assert [each.sha256 for each in listed.assets] == [digest(data)] * sees, (who, owner)


async def test_quotas_tell_nothing(guarded: AccessControlled) -> None:
    """
    An upload for a version that the caller may not read does not tell how much that version holds.
    """
    version = "secret/models/held/versions/1"
    await stored(guarded, version)
    start = uploads_pb2.StartUploadRequest(
        sha256=digest(some_bytes(9)), size_bytes=QUOTA - 1, owner=f"namespaces/{version}"
    )
    async with guarded.as_("mallory") as mallory, guarded.as_("eve") as eve:
        await mallory.uploads.StartUpload(start)
        with pytest.raises(grpc.RpcError) as refused:
            await eve.uploads.StartUpload(start)
        assert explain(refused.value).reason == "ASSET_QUOTA"


async def test_changes_are_for_readers_of_everything(guarded: AccessControlled) -> None:
    """
    The change stream names all assets: only who may see all of them may watch it, and only for as long.
    """
    request = changes_pb2.WatchChangesRequest()
    request.heartbeat_interval.FromMilliseconds(200)
    async with guarded.as_("ann") as ann, guarded.as_("temp") as temp:
        with pytest.raises(grpc.RpcError) as refused:
            await ann.asset_changes.WatchChanges(request).read()
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
        await guarded.set_policy("", owner="user:root user:temp", reader="user:all")
        call = temp.asset_changes.WatchChanges(request)
        await call.read()
        await guarded.set_policy("", owner="user:root", reader="user:all")
        with pytest.raises(grpc.RpcError) as revoked:
            await read_on(call)
        assert revoked.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_static_files_are_as_readable_as_their_assets(guarded: AccessControlled) -> None:
    """
    A static file does not exist for callers who may not see its asset.
    """
    data = await stored(guarded, "vision/models/m/versions/1")
    static = delivery_pb2.StaticFile(name="static/vision/logo", asset=f"assets/{digest(data)}")
    async with guarded.as_("ann", *SIGN) as ann, guarded.as_("mallory", *SIGN) as mallory:
        await ann.delivery.PutStaticFile(delivery_pb2.PutStaticFileRequest(static_file=static))
        request = delivery_pb2.GetStaticFileRequest(name=static.name)
        assert (await ann.delivery.GetStaticFile(request)).asset == static.asset
        problems = []
        for name in (static.name, "static/vision/none"):
            with pytest.raises(grpc.RpcError) as refused:
                await mallory.delivery.GetStaticFile(delivery_pb2.GetStaticFileRequest(name=name))
            problem = explain(refused.value)
            problems.append((problem.code, problem.reason, problem.message.replace(name, "…")))
    assert problems[0] == problems[1]


async def test_only_what_everybody_may_see_is_for_shared_caches(guarded: AccessControlled) -> None:
    """
    Responses that depend on the caller are marked private; those for callers who see everything are not.
    """
    data = await stored(guarded, "vision/models/m/versions/1")
    for who, wanted in (("all", None), ("ann", "private"), ("mallory", "private")):
        async with guarded.as_(who) as client:
            call = client.assets.GetAsset(pb.GetAssetRequest(name=f"assets/{digest(data)}"))
            await asyncio.wait([asyncio.ensure_future(call.code())])
            assert dict(await call.trailing_metadata() or ()).get("cache-control") == wanted


async def test_stale_policies(guarded: AccessControlled) -> None:
    """
    While the policies may be out of date, callers who need a decision are refused; services on their own behalf and
    break-glass access are not, and a download in progress goes on.
    """
    data = await stored(guarded, "vision/models/m/versions/1", some_bytes(24 << 20))
    get = pb.GetAssetRequest(name=f"assets/{digest(data)}")
    try:
        async with guarded.as_("ann") as ann, guarded.as_("root", "assets.read", "admin") as root:
            call = ann.assets.Download(pb.DownloadRequest(name=get.name))
            first = await call.read()
            assert isinstance(first, pb.DownloadResponse)
            received = len(first.chunk.data)
            guarded.policies.silence(True)
            reason = ""
            while not reason:
                await asyncio.sleep(0.05)
                try:
                    await ann.assets.GetAsset(get)
                except grpc.RpcError as error:
                    reason = explain(error).reason or "?"
            assert reason == "POLICY_STALE"
            await root.assets.GetAsset(get)
            await guarded.pin("vision/models/m/versions/8", digest(data))
            received += sum([len(message.chunk.data) async for message in call])
            assert received == len(data)
    finally:
        guarded.policies.silence(False)
        await guarded.follows()


async def test_shared_bytes_are_sent_in_full(guarded: AccessControlled) -> None:
    """
    A large file that others have stored is sent again by whoever may not see it, and is one asset afterwards.
    """
    data = some_bytes(20 << 20)
    for who in ("ann", "mallory"):
        async with guarded.as_(who) as client:
            asset = await client.assets.Upload(stream(header(data), *chunks(data)))
            assert asset.sha256 == digest(data)
        assert await may(guarded, who, data)
