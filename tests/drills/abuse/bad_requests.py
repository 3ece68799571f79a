"""
Every kind of bad request that the suite knows: a name, and a callable that sends one to a gateway's port and returns
how it ended. All of them have to be rejected as client errors.
"""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

from google.protobuf import duration_pb2, field_mask_pb2, struct_pb2

from modelyard.cache.v1 import cache_pb2
from modelyard.cdn.v1 import assets_pb2
from modelyard.changes.v1 import changes_pb2
from modelyard.contracts import services
from modelyard.registry.v1 import cards_pb2, evaluations_pb2, models_pb2
from services.chassis.tests.behaviour.wire import Wire, message

REGISTRY, CDN, CACHE = "/modelyard.registry.v1", "/modelyard.cdn.v1", "/modelyard.cache.v1"
GET, CREATE = f"{REGISTRY}.ModelService/GetModel", f"{REGISTRY}.ModelService/CreateModel"
UPLOAD = f"{CDN}.AssetService/Upload"
KEY_VALUE = f"{CACHE}.KeyValueService"
DEFAULT = "namespaces/default"
MODELS = f"/v1/{DEFAULT}/models"
DIGEST = "a" * 64
GARBAGE, NOT_UTF_8 = b"\xff\xff\xff", b"\x0a\x02\xff\xfe"
_GOOD = message(models_pb2.GetModelRequest(name=f"{DEFAULT}/models/none").SerializeToString())

Headers = Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class Ending:
    """
    How a request ended.

    Args:
        http: the HTTP status; 0 if the stream or the connection ended without one.
        code: the gRPC status, over any protocol; None if there was none.
    """

    http: int
    code: int | None

    @property
    def rejected(self) -> bool:
        """
        Whether it was rejected as a client error: by a gRPC status other than OK, UNKNOWN, INTERNAL, UNAVAILABLE and
        DATA_LOSS, or by an HTTP status 4xx if it was no gRPC call.
        """
        if self.code is None:
            return 400 <= self.http < 500
        return self.code not in {0, 2, 13, 14, 15}


Kind = Callable[[int], Awaitable[Ending]]


def call(path: str, body: bytes = _GOOD, headers: Headers | None = None) -> Kind:
    """
    A gRPC call with a given body.
    """

    async def ask(port: int) -> Ending:
        async with Wire.open(port) as wire:
            stream = wire.begin(path, headers)
            for start in range(0, len(body), 16_000):
                wire.data(stream, body[start : start + 16_000])
            wire.data(stream, b"", end=True)
            reply = await wire.reply(stream)
            return Ending(int(reply.http or 0), reply.status)

    return ask


def rpc(path: str, *requests: object, headers: Headers | None = None) -> Kind:
    """
    A gRPC call of well-formed messages.
    """
    return call(path, b"".join(message(each.SerializeToString()) for each in requests), headers)  # type: ignore[attr-defined]


def headers_alone(path: str) -> Kind:
    """
    A gRPC call without a body.
    """

    async def ask(port: int) -> Ending:
        async with Wire.open(port) as wire:
            reply = await wire.reply(wire.begin(path, end=True))
            return Ending(int(reply.http or 0), reply.status)

    return ask


def web(path: str, body: bytes, content_type: str = "application/grpc-web+proto", **headers: str) -> Kind:
    """
    A request over HTTP/1.1: JSON, or gRPC-Web.
    """
    return _plain("POST", path, body, {"content-type": content_type, **headers})


def as_json(method: str, path: str, body: bytes | None = None, **headers: str) -> Kind:
    """
    A request as JSON.
    """
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return _plain(method, path, body, {"content-type": "application/json", **given})


def _plain(method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Kind:
    def once(port: int) -> Ending:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        try:
            connection.request(method, path, body, dict(headers))
            answer = connection.getresponse()
            text = answer.read()
        except ConnectionError:
            return Ending(0, None)
        finally:
            connection.close()
        code = answer.getheader("grpc-status")
        if code is None and b"grpc-status:" in text:
            code = text.partition(b"grpc-status:")[2].partition(b"\r")[0].decode()
        if code is None:
            with suppress(ValueError, KeyError, TypeError):
                code = str(json.loads(text)["code"])
        return Ending(answer.status, None if code is None else int(code))

    async def ask(port: int) -> Ending:
        return await asyncio.to_thread(once, port)

    return ask


def _undecodable() -> Iterator[tuple[str, Kind]]:
    """
    Bytes that no protobuf parser accepts, to every RPC: cached reads and other calls.
    """
    for service in services():
        for method in service.methods:
            path = f"/{service.full_name}/{method.name}"
            if method.client_streaming or path == f"{UPLOAD}":
                continue
            yield f"undecodable: {service.name}.{method.name}", call(path, message(GARBAGE))


def _not_a_number() -> cards_pb2.UpdateCardRequest:
    extra = struct_pb2.Struct()
    extra.fields["x"].number_value = float("nan")
    card = cards_pb2.Card(name=f"{DEFAULT}/models/none/card", extra=extra)
    return cards_pb2.UpdateCardRequest(card=card, update_mask=field_mask_pb2.FieldMask(paths=["extra"]))


def _evaluation() -> evaluations_pb2.RecordEvaluationsRequest:
    version = f"{DEFAULT}/models/none/versions/1"
    wrong = evaluations_pb2.Evaluation(version=version, dataset="d", metric="m", value=float("inf"))
    return evaluations_pb2.RecordEvaluationsRequest(parent=DEFAULT, evaluations=[wrong])


def _upload(sha256: str, size: int, data: bytes, offset: int = 0) -> list[assets_pb2.UploadRequest]:
    header = assets_pb2.UploadRequest.Header(sha256=sha256, size_bytes=size)
    chunk = assets_pb2.Chunk(data=data, offset=offset)
    return [assets_pb2.UploadRequest(header=header), assets_pb2.UploadRequest(chunk=chunk)]


def _calls() -> Iterator[tuple[str, Kind]]:
    """
    Calls that violate the gRPC protocol or a contract.
    """
    yield "not UTF-8, cached read", call(GET, message(NOT_UTF_8))
    yield "not UTF-8, write", call(CREATE, message(NOT_UTF_8))
    yield "not UTF-8, asset", call(f"{CDN}.AssetService/GetAsset", message(NOT_UTF_8))
    yield "not UTF-8, key-value", call(f"{KEY_VALUE}/Set", message(NOT_UTF_8))
    yield "no message", call(GET, b"")
    yield "no message, headers alone", headers_alone(CREATE)
    yield "two messages", call(CREATE, message(b"") * 2)
    yield "cut short", call(GET, _GOOD[:-1])
    yield "strange flag", call(GET, message(b"", flag=2))
    yield "does not unpack", call(GET, message(b"no gzip", flag=1), {"grpc-encoding": "gzip"})
    yield "too large", call(CREATE, message(b"x" * 1000, length=1 << 30))
    yield "unknown method", call(f"{REGISTRY}.ModelService/Nonsense")
    yield "unknown service", call("/modelyard.nonsense.v1.Service/Get")
    yield "path that is not UTF-8", call(f"{GET}/%ff")
    yield "unknown encoding", call(GET, _GOOD, {"grpc-encoding": "snappy"})
    yield "unknown codec", call(GET, _GOOD, {"content-type": "application/grpc+json"})
    yield "wrong content type", call(GET, _GOOD, {"content-type": "text/plain"})
    yield "verb", call(GET, _GOOD, {":method": "GET"})
    yield "without te", call(GET, _GOOD, {"te": None})
    yield "bad base64", call(GET, _GOOD, {"x-a-bin": "!!!"})
    yield "bad grpc-timeout", call(GET, _GOOD, {"grpc-timeout": "soon"})
    yield "bad attempts", call(GET, _GOOD, {"grpc-previous-rpc-attempts": "many"})
    yield "large metadata", call(GET, _GOOD, {"x-large": "x" * 8_000, "x-larger": "x" * 7_800})
    yield "missed deadline, read", call(GET, _GOOD, {"grpc-timeout": "1n"})
    yield "missed deadline, write", call(CREATE, message(b""), {"grpc-timeout": "1n"})
    for wrong in ("x", "-1", "9" * 30):
        yield f"x-min-revision {wrong[:5]}", call(GET, _GOOD, {"x-min-revision": wrong})
    yield "x-min-revision ahead", call(GET, _GOOD, {"x-min-revision": "999999999999"})
    listed = message(models_pb2.ListModelsRequest(parent=DEFAULT).SerializeToString())
    ahead = {"x-min-revision": "999999999999", "cache-control": "no-cache"}
    yield "x-min-revision ahead, list", call(f"{REGISTRY}.ModelService/ListModels", listed, ahead)
    asset = message(assets_pb2.GetAssetRequest(name=f"assets/{DIGEST}").SerializeToString())
    yield "x-min-revision ahead, asset", call(f"{CDN}.AssetService/GetAsset", asset, {"x-min-revision": "999999999999"})


def _requests() -> Iterator[tuple[str, Kind]]:
    """
    Well-formed messages with invalid content.
    """
    yield "NaN", rpc(f"{REGISTRY}.CardService/UpdateCard", _not_a_number())
    yield "infinity", rpc(f"{REGISTRY}.EvaluationService/RecordEvaluations", _evaluation())
    yield "bad name", rpc(GET, models_pb2.GetModelRequest(name="x/y"))
    nested = models_pb2.SearchModelsRequest(parent=DEFAULT, filter="(" * 10_000)
    yield "deep filter", rpc(f"{REGISTRY}.ModelService/SearchModels", nested)
    token = models_pb2.ListModelsRequest(parent=DEFAULT, page_token="garbage")
    yield "bad page token", rpc(f"{REGISTRY}.ModelService/ListModels", token)
    ahead = changes_pb2.WatchChangesRequest(start_revision=10**18)
    yield "changes of the future", rpc(f"{REGISTRY}.ChangeService/WatchChanges", ahead)
    data = b"some bytes"
    yield "wrong size, fewer", rpc(UPLOAD, *_upload(DIGEST, len(data) + 1, data))
    yield "wrong size, more", rpc(UPLOAD, *_upload(DIGEST, len(data) - 1, data))
    yield "wrong digest", rpc(UPLOAD, *_upload(DIGEST, len(data), data))
    yield "gap in an upload", rpc(UPLOAD, *_upload(DIGEST, len(data), data, offset=5))
    yield "upload without a header", rpc(UPLOAD, *_upload(DIGEST, len(data), data)[1:])
    yield "upload of nothing", call(UPLOAD, b"")
    yield "undecodable chunk", call(UPLOAD, message(GARBAGE))
    for what, entry in (
        ("long key", cache_pb2.Entry(key="x" * 10_000, value=b"x")),
        ("long tag", cache_pb2.Entry(key="x", tags=["x" * 10_000])),
        ("long ttl", cache_pb2.Entry(key="x", ttl=duration_pb2.Duration(seconds=10**11))),
        ("negative ttl", cache_pb2.Entry(key="x", ttl=duration_pb2.Duration(seconds=-1, nanos=5))),
    ):
        yield what, rpc(f"{KEY_VALUE}/Set", cache_pb2.SetRequest(namespace="shared", entry=entry))
    ttl = cache_pb2.IncrementRequest(namespace="shared", key="", delta=1)
    yield "empty key", rpc(f"{KEY_VALUE}/Increment", ttl)
    yield "unknown namespace", rpc(f"{KEY_VALUE}/Get", cache_pb2.GetRequest(namespace="nonsense", key="x"))
    yield "no keys", rpc(f"{KEY_VALUE}/BatchGet", cache_pb2.BatchGetRequest(namespace="shared"))
    scan = cache_pb2.ScanRequest(namespace="shared", page_token="garbage")
    yield "bad scan token", rpc(f"{KEY_VALUE}/Scan", scan)


def _over_http() -> Iterator[tuple[str, Kind]]:
    """
    JSON and gRPC-Web.
    """
    yield "json: path that is not UTF-8", as_json("GET", f"{MODELS}/%ff")
    yield "json: query that is not UTF-8", as_json("GET", f"{MODELS}?page_token=%c3")
    yield "json: body that is not UTF-8", as_json("POST", f"{MODELS}?model_id=bad", b'{"owner": "\xff\xfe"}')
    yield "json: syntax", as_json("POST", f"{MODELS}?model_id=bad", b"{")
    yield "json: wrong type", as_json("POST", f"{MODELS}?model_id=bad", b'{"parameter_count": "x"}')
    yield "json: deep", as_json("POST", f"{MODELS}?model_id=bad", b'{"a":' * 10_000)
    yield "json: unknown query parameter", as_json("GET", f"{MODELS}?nonsense=1")
    yield "json: too large", as_json("POST", f"{MODELS}?model_id=bad", b'{"description": "' + b"x" * 2_200_000)
    yield "json: unknown path", as_json("GET", "/v1/nonsense")
    yield "json: x-min-revision ahead", as_json("GET", f"{MODELS}/none", x_min_revision="999999999999")
    yield "json: bad base64", as_json("GET", f"{MODELS}/none", x_a_bin="!!!")
    yield "json: bad grpc-timeout", as_json("GET", f"{MODELS}/none", grpc_timeout="soon")
    yield "json: missed deadline", as_json("GET", f"{MODELS}/none", grpc_timeout="1n")
    yield "json: bad id", as_json("POST", f"{MODELS}?model_id=a%20b", b"{}")
    yield "web: undecodable", web(GET, message(GARBAGE))
    yield "web: no message", web(GET, b"")
    yield "web: two messages", web(CREATE, message(b"") * 2)
    yield "web: not base64", web(GET, b"!!!!", "application/grpc-web-text")
    yield "web: unknown codec", web(GET, _GOOD, "application/grpc-web+json")


GROUPS: Mapping[str, Mapping[str, Kind]] = {
    "undecodable": dict(_undecodable()),
    "calls": dict(_calls()),
    "requests": dict(_requests()),
    "over HTTP": dict(_over_http()),
}
KINDS: Mapping[str, Kind] = {name: kind for group in GROUPS.values() for name, kind in group.items()}


async def send(kind: Kind, port: int, times: int) -> list[Ending]:
    """
    Send *times* requests of a kind at once.
    """
    return list(await asyncio.gather(*(kind(port) for _ in range(times))))


async def bad_requests(port: int) -> None:
    """
    Twenty bad requests of every kind: all of them are rejected as client errors.
    """
    for name, kind in KINDS.items():
        for ending in await send(kind, port, 20):
            assert ending.rejected, (name, ending)
