"""
Fields of a JSON body that the contract does not have, and methods that a path does not have.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from embedded.s3 import S3
from gateway.openapi.bindings import Binding, bindings
from gateway.tests import harness
from gateway.tests.echo import Echo
from modelyard.contracts import services

MODELS = "/v1/namespaces/default/models"
WORDS = {
    FieldDescriptor.CPPTYPE_STRING: "x",
    FieldDescriptor.CPPTYPE_BOOL: True,
    FieldDescriptor.CPPTYPE_ENUM: 0,
}
KNOWN = {
    "google.protobuf.Timestamp": "2026-11-24T10:00:00Z",
    "google.protobuf.Duration": "1.5s",
    "google.protobuf.FieldMask": "a,b",
    "google.protobuf.Struct": {"any": [{"key": None}], "[": {"{": "}"}},
}
WITH_BODY = [
    pytest.param(method, binding, id=f"{method.full_name.removeprefix('modelyard.')}-{binding.template}")
    for service in services()
    for method in service.methods
    for binding in bindings(method)
    if binding.body
]


@pytest.fixture(scope="module")
def edge(echo: tuple[Echo, int], tmp_path_factory: pytest.TempPathFactory) -> Iterator[harness.Edge]:
    """
    A gateway before a service that takes everything.
    """
    state = tmp_path_factory.mktemp("bodies")
    ports = dict.fromkeys(("registry", "cache", "cdn"), echo[1])
    with harness.gateway(S3(state, 1), state, services=ports) as running:
        yield running


def send(edge: harness.Edge, path: str, body: object, method: str = "POST") -> harness.Answer:
    """
    Send *body* as JSON; bytes as they are.
    """
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return edge.ask(path, method, data, content_type="application/json")


def refused(answer: harness.Answer) -> str:
    """
    The field that a refusal names.
    """
    assert answer.status == 400, answer.body
    (detail,) = answer.error["details"]
    (violation,) = detail["fieldViolations"]
    assert answer.error["code"] == 3
    assert answer.error["message"] == f"{violation['field']}: {violation['description']}"
    assert violation["description"] == "there is no such field"
    return str(violation["field"])


def full(message: Descriptor | None, spelling: str) -> Any:
    """
    A message with all of its fields, one of each choice.
    """
    assert message is not None
    if message.full_name in KNOWN:
        return KNOWN[message.full_name]
    chosen = [each for each in message.fields if not each.containing_oneof or each is each.containing_oneof.fields[0]]
    return {getattr(field, spelling): _value(field, spelling) for field in chosen}


def _value(field: FieldDescriptor, spelling: str) -> Any:
    if field.message_type is None:
        one = WORDS.get(field.cpp_type, 1)
        if field.type == FieldDescriptor.TYPE_BYTES:
            one = "QUJD"
    elif field.message_type.GetOptions().map_entry:
        value = field.message_type.fields_by_name["value"]
        return {'a "key" \\ of {its own': _value(value, spelling)}
    else:
        one = full(field.message_type, spelling)
    return [one, copy.deepcopy(one)] if field.is_repeated else one


def places(value: Any, message: Descriptor, path: str) -> Iterator[tuple[str, Any]]:
    """
    The objects in *value* whose fields are those of a message, with their paths.
    """
    if message.full_name in KNOWN:
        return
    yield path, value
    for name, inner in value.items():
        field = message.fields_by_camelcase_name[name]
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        for index, each in enumerate(inner if isinstance(inner, list) else [inner]):
            at = f"{path}{name}[{index}]." if isinstance(inner, list) else f"{path}{name}."
            yield from places(each, field.message_type, at)


def _body(method: Any, binding: Binding, spelling: str) -> tuple[Descriptor, Any]:
    whole: Descriptor = method.input_type
    message = whole if binding.body == "*" else whole.fields_by_name[binding.body].message_type
    assert message is not None
    value = full(message, spelling)
    if binding.body == "*":
        # What is in the path is not said again.
        for segment in binding.segments:
            first = segment.field.partition(".")[0]
            value.pop(getattr(whole.fields_by_name[first], spelling), None)
    return message, value


@pytest.mark.parametrize("spelling", ["json_name", "name"])
@pytest.mark.parametrize(("method", "binding"), WITH_BODY)
def test_known_fields_pass(edge: harness.Edge, method: Any, binding: Binding, spelling: str) -> None:
    """
    Every field of every contract is taken, as proto3 JSON spells it and as the contract does; keys of maps and of free
    JSON are nobody's business.
    """
    _, body = _body(method, binding, spelling)
    answer = send(edge, _path(binding), body, binding.verb.upper())
    assert b"no such field" not in answer.body, answer.body


@pytest.mark.parametrize(("method", "binding"), WITH_BODY)
def test_unknown_fields_are_refused(edge: harness.Edge, echo: tuple[Echo, int], method: Any, binding: Binding) -> None:
    """
    A field that a message does not have is refused wherever it is, with its path, and no service hears of the call.
    """
    message, body = _body(method, binding, "json_name")
    before = len(echo[0].told)
    prefix = "" if binding.body == "*" else f"{binding.body}."
    for index, (path, _) in enumerate(places(body, message, prefix)):
        wrong = copy.deepcopy(body)
        _, place = list(places(wrong, message, prefix))[index]
        place["licence"] = {"deep": [1]}
        assert refused(send(edge, _path(binding), wrong, binding.verb.upper())) == f"{path}licence"
    assert len(echo[0].told) == before


def _path(binding: Binding) -> str:
    path = binding.path
    for segment in binding.segments:
        path = path.replace(f"{{{segment.name}}}", "a/b" if segment.many else "a")
    return path


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"licence": "MIT"}', "model.licence"),
        (b' \n{ "task" : "a" , "licence":1}', "model.licence"),
        (b'{"lic\\u0065nce": 1}', "model.licence"),
        (b'{"task": "\\"}{\\\\", "x": 1}', "model.x"),
        (b'{"labels": {"a": "b"}, "metadata": {}}', "model.metadata"),
        (b'{"\xff\xc3\xa9\\n": 1}', "model.????n"),
        (b'{"' + b"a" * 5000 + b'": 1}', "model." + "a" * 194 + "..."),
    ],
)
def test_as_it_is_written(edge: harness.Edge, body: bytes, field: str) -> None:
    """
    Blanks, escapes, quotes in texts and odd keys change nothing.
    """
    assert refused(send(edge, f"{MODELS}?model_id=m", body)) == field


@pytest.mark.parametrize(
    "body",
    [
        b'{"t\\u0061sk": "audio"}',
        b'{"task": null, "labels": {"licence": "MIT", "{": "["}}',
        b'{"description": "' + b'\\"' * 100_000 + b'"}',
        b'{"description": "' + b"\\\\" * 100_000 + b'"}',
        b"{}",
    ],
)
def test_what_is_right_passes(edge: harness.Edge, body: bytes) -> None:
    """
    Escaped names, nulls, keys of maps and long texts are taken.
    """
    assert send(edge, f"{MODELS}?model_id=m", body).status == 200


@pytest.mark.parametrize("body", [b'{"task"', b'{"task": "a', b"{task: 1}", b"[1]", b"\xef\xbb\xbf{}", b"[" * 100_000])
def test_what_is_no_json_is_the_transcoders(edge: harness.Edge, body: bytes) -> None:
    """
    What cannot be read is not what this looks for: the transcoder answers, and the gateway goes on.
    """
    assert b"no such field" not in send(edge, f"{MODELS}?model_id=m", body).body
    assert send(edge, f"{MODELS}?model_id=m", {"task": "a"}).status == 200


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PUT", f"{MODELS}/m", "DELETE, GET, PATCH"),
        ("POST", f"{MODELS}/m?x=1", "DELETE, GET, PATCH"),
        ("OPTIONS", MODELS, "GET, POST"),
        ("HEAD", MODELS, "GET, POST"),
        ("GET", "/v1/urls:sign", "POST"),
    ],
)
def test_other_methods(edge: harness.Edge, method: str, path: str, allow: str) -> None:
    """
    A method that a path does not have is 405, with those that it has.
    """
    answer = edge.ask(path, method)
    assert (answer.status, answer.headers.get("allow")) == (405, allow)
    if method != "HEAD":
        assert answer.error == {"code": 12, "message": f"this path has {allow} only", "details": []}


@pytest.mark.parametrize("path", ["/v1/nothing", f"{MODELS}/m/nothing", "/v1/"])
def test_unknown_paths_stay_404(edge: harness.Edge, path: str) -> None:
    """
    A path that nothing has is not found, by any method.
    """
    assert {edge.ask(path, method).status for method in ("GET", "PUT", "OPTIONS")} == {404}
