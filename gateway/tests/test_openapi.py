"""
The OpenAPI document says what the contracts say, in the JSON that protobuf writes.
"""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import pytest
from google.protobuf import json_format, struct_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import validate
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from gateway.openapi.__main__ import COMMITTED
from gateway.openapi.bindings import bindings
from gateway.openapi.comments import Prose
from gateway.openapi.document import title
from modelyard.contracts import is_internal, scopes, services
from services.chassis.access.policy import PUBLIC

METHODS = [method for service in services() for method in service.methods]

#: Streams that have no path, and why.
WITHOUT_PATH = {
    "modelyard.cdn.v1.AssetService.Download": "bytes are at /assets/{sha256}",
    "modelyard.cdn.v1.AssetService.Upload": "the client streams",
    "modelyard.cdn.v1.UploadService.WriteUpload": "the client streams",
    "modelyard.registry.v1.ImportService.ImportModels": "both sides stream",
}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(COMMITTED.read_text())
    return found


def test_every_unary_rpc_has_a_path() -> None:
    """
    Whatever clients call once is called as JSON too; the streams that are not are listed with a reason. What services
    call among themselves has no path.
    """
    assert [method.full_name for method in METHODS if is_internal(method) and bindings(method)] == []
    without = [method for method in METHODS if not bindings(method) and not is_internal(method)]
    assert [method.full_name for method in without if not _streams(method)] == []
    assert {method.full_name for method in without} == set(WITHOUT_PATH)


def test_no_two_rpcs_have_the_same_path() -> None:
    """
    A verb and a path lead to one RPC, whatever its variable parts are called.
    """
    found = [(each.verb, re.sub(r"\{[^}]+\}", "{}", each.path)) for method in METHODS for each in bindings(method)]
    assert len(found) == len(set(found))


def test_it_is_valid(document: dict[str, Any]) -> None:
    """
    The document is OpenAPI 3.1.
    """
    assert document["openapi"].startswith("3.1")
    validate(document)


def test_it_has_every_binding(document: dict[str, Any]) -> None:
    """
    Every path of every RPC is in the document, under its verb, and says who it is and what it does.
    """
    for method in METHODS:
        for binding in bindings(method):
            operation = document["paths"][binding.path][binding.verb]
            assert operation["operationId"].startswith(f"{title(method.containing_service)}_{method.name}")
            assert operation["summary"].startswith(f"{method.name} "), operation["operationId"]


def test_operations_say_what_token_they_need(document: dict[str, Any]) -> None:
    """
    Each one names its scope as the contract has it; those that may be open to everybody can do without.
    """
    ((name, scheme),) = document["components"]["securitySchemes"].items()
    assert (scheme["type"], scheme["scheme"], scheme["bearerFormat"]) == ("http", "bearer", "JWT")
    table = scopes()
    for method in METHODS:
        scope = table[f"/{method.containing_service.full_name}/{method.name}"]
        for binding in bindings(method):
            operation = document["paths"][binding.path][binding.verb]
            assert operation["security"] == [{name: [scope]}, *([{}] if scope in PUBLIC else [])]
            assert f"`{scope}`" in operation["description"]


def test_operations_have_names_of_their_own(document: dict[str, Any]) -> None:
    """
    No two operations have one id, though two services have the same name.
    """
    ids = [operation["operationId"] for path in document["paths"].values() for operation in path.values()]
    assert len(ids) == len(set(ids))
    assert {"RegistryChangeService_WatchChanges", "CdnChangeService_WatchChanges"} <= set(ids)


def test_errors_of_the_contracts_are_in_it(document: dict[str, Any]) -> None:
    """
    What a comment lists as errors is under the HTTP status of its code.
    """
    responses = document["paths"]["/v1/namespaces/{namespace}/models"]["post"]["responses"]
    assert sorted(responses) == ["200", "400", "403", "404", "409", "429", "default"]
    assert responses["429"]["description"] == (
        "RESOURCE_EXHAUSTED: the namespace's quota of models is used up (MODEL_QUOTA)."
    )


def test_the_parts_of_a_comment() -> None:
    """
    The summary is the first sentence; the list of errors is no part of the description.
    """
    prose = Prose.parse(
        "Do does a thing: well. And more.\n\nErrors:\n  NOT_FOUND  it is\n             gone.\n  ABORTED    no."
    )
    assert prose.summary == "Do does a thing"
    assert prose.description == "Do does a thing: well. And more."
    assert prose.errors == {"NOT_FOUND": "it is gone.", "ABORTED": "no."}


def test_parameters_are_where_the_binding_has_them(document: dict[str, Any]) -> None:
    """
    What is neither in the path nor in the body is a query parameter, and output is nobody's to send.
    """
    create = document["paths"]["/v1/namespaces/{namespace}/models"]["post"]
    assert [(each["in"], each["name"]) for each in create["parameters"]] == [
        ("path", "namespace"),
        ("query", "model_id"),
        ("query", "request_id"),
        ("query", "validate_only"),
        ("query", "replace_deleted"),
    ]
    body = create["requestBody"]["content"]["application/json"]["schema"]
    assert body == {"$ref": "#/components/schemas/registry.v1.Model"}
    model = document["components"]["schemas"]["registry.v1.Model"]["properties"]
    assert {name for name, schema in model.items() if schema.get("readOnly")} == {
        *("name", "createTime", "updateTime", "deleteTime", "purgeTime", "latestVersion", "revision"),
        *("actor", "activityTime", "aliases", "newest"),
    }


@pytest.fixture(scope="module")
def registry(document: dict[str, Any]) -> Registry[Any]:
    """
    The document as "urn:it", with schemas that allow no other fields.
    """
    strict = copy.deepcopy(document)
    for schema in strict["components"]["schemas"].values():
        if schema["type"] == "object":
            schema.setdefault("additionalProperties", False)
    found: Registry[Any] = Registry().with_resource("urn:it", Resource.from_contents(strict, DRAFT202012))
    return found.crawl()


@pytest.mark.parametrize("method", [each for each in METHODS if bindings(each)], ids=lambda method: method.full_name)
def test_schemas_describe_what_protobuf_writes(
    document: dict[str, Any], registry: Registry[Any], method: MethodDescriptor
) -> None:
    """
    The JSON of an answer with every field set, each choice of it once, is valid by the schema and has no other field.
    """
    binding = bindings(method)[0]
    (media,) = document["paths"][binding.path][binding.verb]["responses"]["200"]["content"].values()
    reference = media["schema"].get("$ref")
    schema = {"$ref": f"urn:it{reference}"} if reference else media["schema"]
    for choice in range(3):
        answer = filled(method.output_type, choice)
        OAS31Validator(schema, registry=registry, format_checker=OAS31Validator.FORMAT_CHECKER).validate(
            json_format.MessageToDict(answer)
        )


def _streams(method: MethodDescriptor) -> bool:
    return bool(method.client_streaming or method.server_streaming)


def filled(message: Descriptor, choice: int = 0) -> Message:
    """
    A message with every field set; of a oneof, the field at *choice* or the last.
    """
    built = GetMessageClass(message)()
    if isinstance(built, struct_pb2.Struct):
        built.update({"a": [1, "b", None]})
        return built
    for field in message.fields:
        if (
            field.containing_oneof
            and field != (members := field.containing_oneof.fields)[min(choice, len(members) - 1)]
        ):
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            getattr(built, field.name)["key"] = "value"
        elif field.is_repeated:
            getattr(built, field.name).append(_value(field, choice))
        elif field.message_type is not None:
            getattr(built, field.name).CopyFrom(_value(field, choice))
        else:
            setattr(built, field.name, _value(field, choice))
    return built


def _value(field: FieldDescriptor, choice: int) -> Any:
    if field.message_type is not None:
        return filled(field.message_type, choice)
    if field.enum_type is not None:
        return field.enum_type.values[-1].number
    return {
        FieldDescriptor.CPPTYPE_STRING: b"\xff" if field.type == FieldDescriptor.TYPE_BYTES else "text",
        FieldDescriptor.CPPTYPE_BOOL: True,
        FieldDescriptor.CPPTYPE_DOUBLE: 0.5,
        FieldDescriptor.CPPTYPE_FLOAT: 0.5,
    }.get(field.cpp_type, 7)
