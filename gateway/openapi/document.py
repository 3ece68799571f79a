"""
The document: what every RPC with a path takes, gives and refuses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor, ServiceDescriptor

from gateway.openapi.bindings import Binding, Segment, bindings
from gateway.openapi.comments import Prose
from gateway.openapi.schemas import STRINGS, Schema, Schemas
from modelyard.contracts import scopes, services
from services.chassis.access.policy import PUBLIC

#: https://github.com/googleapis/googleapis/blob/master/google/rpc/code.proto
_STATUS = {
    "CANCELLED": 499,
    "UNKNOWN": 500,
    "INVALID_ARGUMENT": 400,
    "DEADLINE_EXCEEDED": 504,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "PERMISSION_DENIED": 403,
    "UNAUTHENTICATED": 401,
    "RESOURCE_EXHAUSTED": 429,
    "FAILED_PRECONDITION": 400,
    "ABORTED": 409,
    "OUT_OF_RANGE": 400,
    "UNIMPLEMENTED": 501,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DATA_LOSS": 500,
}

_ABOUT = """\
An AI model registry: models, versions, aliases, cards, evaluations, deployments, and their bytes.

The same calls are served as gRPC and gRPC-Web on this port. Streams answer with one JSON object per line, 64-bit
numbers are strings, and a query parameter that a call does not have is refused. Bodies are application/json.

Where access control is on, calls need a token with the scope that is named beside each of them."""

_SCHEME = "token"
_SECURITY: dict[str, Any] = {
    "type": "http",
    "scheme": "bearer",
    "bearerFormat": "JWT",
    "description": "A token of this registry's issuer, whose claim `scope` has the scope of the call. None is needed "
    "where access control is off, nor for reading models and assets where everybody may.",
}

_ERROR: Schema = {
    "type": "object",
    "description": "An error, with details such as google.rpc.ErrorInfo (the reason) and google.rpc.BadRequest.",
    "properties": {
        "code": {"type": "integer", "format": "int32", "description": "The gRPC code, such as 5 for NOT_FOUND."},
        "message": {"type": "string", "description": "For people."},
        "details": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"@type": {"type": "string"}},
                "required": ["@type"],
                "additionalProperties": True,
            },
        },
    },
}

# In the order in which a reader needs them.
_PACKAGES = {"modelyard.registry.v1": 0, "modelyard.cdn.v1": 1, "modelyard.cache.v1": 2}

#: What is there from the start, so that a first try finds something.
_EXAMPLES = {"namespaces": "default", "cache": "shared"}


def document(comments: Mapping[str, str], version: str) -> dict[str, Any]:
    """
    The OpenAPI document of all contracts.

    Args:
        comments: what the contracts say, by full name.
        version: the API's.
    """
    schemas = Schemas(comments)
    paths: dict[str, dict[str, Any]] = {}
    tags = []
    for service in sorted(services(), key=lambda each: _PACKAGES.get(each.file.package, len(_PACKAGES))):
        found = [(method, index, each) for method in service.methods for index, each in enumerate(bindings(method))]
        for method, index, binding in found:
            operation = _Operation(method, binding, schemas, comments).render()
            if index:
                operation["operationId"] += f"_{index + 1}"
            paths.setdefault(binding.path, {})[binding.verb] = operation
        if found:
            tags.append({"name": title(service), "description": comments.get(service.full_name, "")})
    components = {**schemas.components, "google.rpc.Status": _ERROR}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Modelyard API",
            "version": version,
            "description": _ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": tags,
        "paths": dict(sorted(paths.items())),
        "components": {
            "securitySchemes": {_SCHEME: _SECURITY},
            "schemas": dict(sorted(components.items())),
            "responses": {"Error": _refusal("Any other error.")},
        },
    }


def title(service: ServiceDescriptor) -> str:
    """
    What a service is called: ModelService; RegistryChangeService, because the asset service has a ChangeService, too.
    """
    alone = [each.name for each in services()].count(service.name) == 1
    return str(service.name) if alone else f"{service.file.package.split('.')[1].capitalize()}{service.name}"


class _Operation:
    """
    One binding of one RPC.
    """

    def __init__(
        self, method: MethodDescriptor, binding: Binding, schemas: Schemas, comments: Mapping[str, str]
    ) -> None:
        self._method = method
        self._binding = binding
        self._schemas = schemas
        self._comments = comments
        self._prose = Prose.parse(comments.get(method.full_name, ""))
        self._scope = scopes()[f"/{method.containing_service.full_name}/{method.name}"]

    def render(self) -> dict[str, Any]:
        """
        The operation object.
        """
        found: dict[str, Any] = {
            "tags": [title(self._method.containing_service)],
            "operationId": f"{title(self._method.containing_service)}_{self._method.name}",
            "summary": self._prose.summary,
            "parameters": [*map(self._segment, self._binding.segments), *self._query(self._method.input_type)],
            "responses": self._responses(),
        }
        found["description"] = f"{self._prose.description}\n\nScope: `{self._scope}`."
        # Which of the two it is, only the server knows.
        found["security"] = [{_SCHEME: [self._scope]}, *([{}] if self._scope in PUBLIC else [])]
        if self._binding.body:
            found["requestBody"] = {"required": True, "content": {"application/json": {"schema": self._body()}}}
        return found

    def _segment(self, segment: Segment) -> dict[str, Any]:
        schema: Schema = {"type": "string"}
        found: dict[str, Any] = {"name": segment.name, "in": "path", "required": True, "schema": schema}
        said = [f"Of `{segment.field}`: {segment.pattern}."] if segment.pattern else []
        if segment.many:
            said.append("It may have slashes, which are not escaped.")
        if said:
            found["description"] = " ".join(said)
        collection = self._binding.path.partition(f"/{{{segment.name}}}")[0].rpartition("/")[2]
        if collection in _EXAMPLES:
            found["example"] = _EXAMPLES[collection]
        return found

    def _query(self, message: Descriptor, prefix: str = "") -> Iterator[dict[str, Any]]:
        """
        The fields that are neither in the path nor in the body: those of messages with dots.
        """
        if self._binding.body == "*":
            return
        in_path = {segment.field for segment in self._binding.segments}
        for field in message.fields:
            name = prefix + field.name
            if name in in_path or name == self._binding.body:
                continue
            if _is_parameter(field):
                schema = self._schemas.field(field)
                found = {"name": name, "in": "query", "schema": schema}
                if "description" in schema:
                    found["description"] = schema.pop("description")
                yield found
            elif field.message_type is not None and not field.is_repeated:
                yield from self._query(field.message_type, f"{name}.")

    def _body(self) -> Schema:
        request = self._method.input_type
        if self._binding.body != "*":
            return self._schemas.field(request.fields_by_name[self._binding.body])
        return self._schemas.fields(request, [segment.field for segment in self._binding.segments])

    def _responses(self) -> dict[str, Any]:
        answer = self._schemas.message(self._method.output_type)
        kind, description = "application/json", "Done."
        if self._method.server_streaming:
            kind, description = "application/x-ndjson", "A stream: one of these per line."
        responses: dict[str, Any] = {"200": {"description": description, "content": {kind: {"schema": answer}}}}
        meanings: dict[int, list[str]] = {}
        for code, meaning in self._prose.errors.items():
            meanings.setdefault(_STATUS[code], []).append(f"{code}: {meaning}")
        for status, said in sorted(meanings.items()):
            responses[str(status)] = _refusal("\n\n".join(said))
        return {**responses, "default": {"$ref": "#/components/responses/Error"}}


def _is_parameter(field: FieldDescriptor) -> bool:
    return field.message_type is None or field.message_type.full_name in STRINGS


def _refusal(description: str) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/google.rpc.Status"}
    return {"description": description, "content": {"application/json": {"schema": schema}}}
