"""
The API reference, from the contracts in `protos/`: services, RPCs, messages and enums with their comments.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, MethodDescriptor, ServiceDescriptor

from docs.reference import markdown as md
from gateway.openapi.bindings import bindings
from gateway.openapi.comments import Prose, of_contracts
from modelyard.cache.v1 import policy_pb2
from modelyard.contracts import is_internal, scopes, services

_ABOUT = """\
The gRPC services behind the gateway, one page each, generated from the contracts in `protos/`. Every RPC names its
scope, its HTTP path, whether the cache may answer it, and its errors with their [reasons](../errors.md). The
gateway serves the same as an OpenAPI document at `/openapi.json`, with a console at `/`."""

_TYPES = {
    getattr(FieldDescriptor, name): name.removeprefix("TYPE_").lower()
    for name in dir(FieldDescriptor)
    if name.startswith("TYPE_")
}


@dataclass(frozen=True, slots=True)
class Rpc:
    """
    One RPC.

    Args:
        method: its descriptor.
        prose: what its comment says.
        scope: that its caller needs; empty for none.
    """

    method: MethodDescriptor
    prose: Prose
    scope: str

    @property
    def name(self) -> str:
        """
        Service and method: ModelService.GetModel.
        """
        return f"{self.method.containing_service.name}.{self.method.name}"

    @property
    def link(self) -> str:
        """
        Where it is described, from the folder of the services' pages: each method has a heading.
        """
        return f"{page_of(self.method.containing_service)}#{self.method.name.lower()}"

    @property
    def errors(self) -> Mapping[str, str]:
        """
        What each status means here.
        """
        return self.prose.errors


_comments = cache(of_contracts)


@cache
def rpcs() -> tuple[Rpc, ...]:
    """
    Every RPC of the contracts.
    """
    needed = scopes()
    return tuple(
        Rpc(
            method,
            Prose.parse(_comments().get(method.full_name, "")),
            needed.get(f"/{service.full_name}/{method.name}", ""),
        )
        for service in services()
        for method in service.methods
    )


@cache
def title(service: ServiceDescriptor) -> str:
    """
    The name of a service; with its package's where two packages have one of that name.
    """
    several = [each for each in services() if each.name == service.name]
    return service.name if len(several) == 1 else f"{service.name} ({service.file.package})"


@cache
def page_of(service: ServiceDescriptor) -> str:
    """
    The file with a service.
    """
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", service.name).lower()
    return f"{name}.md" if title(service) == service.name else f"{service.file.package.split('.')[1]}-{name}.md"


def pages() -> dict[str, str]:
    """
    A page for each service, and one that lists them.
    """
    found = {f"api/{page_of(service)}": _service(service) for service in services()}
    rows = []
    for service in services():
        about = _first(_comments().get(service.full_name, ""))
        rows.append((f"[{title(service)}]({page_of(service)})", md.code(service.file.package), md.prose(about)))
    calls = [(f"[{each.name}]({each.link})", md.code(each.scope), _path(each.method)) for each in rpcs()]
    found["api/index.md"] = md.page(
        "API",
        _ABOUT,
        "## Services",
        md.table(("service", "package", "description"), rows),
        "## RPCs",
        md.table(("RPC", "scope", "HTTP"), calls),
    )
    return found


def _path(method: MethodDescriptor) -> str:
    found = bindings(method)
    return md.code(f"{found[0].verb.upper()} {found[0].template}") if found else ""


def _first(text: str) -> str:
    return " ".join(text.split("\n\n", 1)[0].split())


def _service(service: ServiceDescriptor) -> str:
    sections: list[str] = []
    own = [each for each in rpcs() if each.method.containing_service is service]
    for rpc in own:
        sections += [f"## {rpc.method.name}", *_rpc(rpc)]
    types = list(_types(service))
    if types:
        sections.append("## Messages")
        for each in types:
            sections += [f"### {_short(each)}", *(_enum(each) if isinstance(each, EnumDescriptor) else _message(each))]
    about = (
        text(_comments().get(service.full_name, "")) + f"\n\nPackage `{service.file.package}`, `{service.file.name}`."
    )
    return md.page(title(service), about, *sections)


def _rpc(rpc: Rpc) -> Iterator[str]:
    method = rpc.method
    yield text(rpc.prose.description)
    request = f"{'stream ' if method.client_streaming else ''}{_short(method.input_type)}"
    response = f"{'stream ' if method.server_streaming else ''}{_short(method.output_type)}"
    facts = [("call", md.code(f"/{method.containing_service.full_name}/{method.name}"))]
    facts += [("request", md.code(request)), ("response", md.code(response))]
    facts += [("HTTP", ", ".join(md.code(f"{each.verb.upper()} {each.template}") for each in bindings(method)))]
    facts += [("scope", md.code(rpc.scope) or "none: denied while access control is on")]
    facts += [("cache", _cached(method))]
    if is_internal(method):
        facts += [("route", "internal: services call it among themselves, and the gateway has no route to it")]
    yield md.table(("", ""), [(f"**{name}**", value) for name, value in facts if value])
    if rpc.errors:
        yield md.table(("error", "when"), [(md.code(code), md.prose(meaning)) for code, meaning in rpc.errors.items()])


def _cached(method: MethodDescriptor) -> str:
    options = method.GetOptions()
    if not options.HasExtension(policy_pb2.policy):
        return ""
    policy = options.Extensions[policy_pb2.policy]
    tags = getattr(policy, "tags", ())
    tags = (tags,) if isinstance(tags, str) else tags
    return f"class {md.code(getattr(policy, 'class'))}, tags {', '.join(md.code(tag) for tag in tags)}"


def text(comment: str) -> str:
    """
    A comment of a contract as Markdown: paragraphs and lists stay, indented text becomes a block of code.
    """
    blocks: list[str] = []
    for block in re.split(r"\n\s*\n", comment.strip("\n")):
        lines = block.split("\n")
        if all(line.startswith("  ") for line in lines) and not lines[0].strip().startswith(("*", "-")):
            blocks.append("```text\n" + "\n".join(line[2:] for line in lines) + "\n```")
        elif any(line.lstrip().startswith(("* ", "- ")) for line in lines):
            blocks.append("\n".join(_item(line) for line in lines))
        elif any(line.startswith("  ") for line in lines):
            blocks.append("```text\n" + block + "\n```")
        else:
            blocks.append(md.prose(" ".join(lines)))
    return "\n\n".join(blocks)


def _item(line: str) -> str:
    found = re.match(r"(\s*[*-] )(.*)", line)
    return f"{found[1]}{md.prose(found[2])}" if found else md.prose(line)


def _types(service: ServiceDescriptor) -> Iterator[Descriptor | EnumDescriptor]:
    """
    The messages and enums of our own that the RPCs of a service use, each once, from the requests inward.
    """
    seen: dict[str, Descriptor | EnumDescriptor] = {}

    def add(found: Descriptor | EnumDescriptor | None) -> None:
        if found is None or found.full_name in seen or not found.full_name.startswith("modelyard."):
            return
        if isinstance(found, EnumDescriptor):
            seen[found.full_name] = found
            return
        if not found.GetOptions().map_entry:
            seen[found.full_name] = found
        for field in found.fields:
            add(field.message_type or field.enum_type)

    for method in service.methods:
        add(method.input_type)
        add(method.output_type)
    yield from seen.values()


def _short(found: Descriptor | EnumDescriptor) -> str:
    """
    The name below its package: MoveAliasesRequest.Move.
    """
    package = found.file.package
    return found.full_name.removeprefix(f"{package}.") if package.startswith("modelyard.") else found.full_name


def _message(message: Descriptor) -> Iterator[str]:
    if about := _comments().get(message.full_name, ""):
        yield text(about)
    if not message.fields:
        yield "No fields."
        return
    rows = [
        (md.code(field.name), md.code(_type(field)), md.prose(" ".join(_comments().get(field.full_name, "").split())))
        for field in message.fields
    ]
    yield md.table(("field", "type", "description"), rows)


def _type(field: FieldDescriptor) -> str:
    kind = field.message_type or field.enum_type
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        key, value = field.message_type.fields
        return f"map<{_type(key)}, {_type(value)}>"
    name = _short(kind) if kind is not None else _TYPES[field.type]
    return f"repeated {name}" if field.is_repeated else name


def _enum(enum: EnumDescriptor) -> Iterator[str]:
    if about := _comments().get(enum.full_name, ""):
        yield text(about)
    rows = [
        (
            md.code(value.name),
            str(value.number),
            md.prose(" ".join(_comments().get(f"{enum.full_name}.{value.name}", "").split())),
        )
        for value in enum.values
    ]
    yield md.table(("value", "number", "description"), rows)
