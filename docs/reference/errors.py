"""
The reasons of errors: found where the services and the gateway raise them, with the RPCs whose contracts document them.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeGuard

from docs.reference import api, sources
from docs.reference import markdown as md
from gateway.openapi.document import _STATUS
from services.chassis import errors

_ABOUT = """\
An error carries a gRPC status, a message for people, and a `google.rpc.ErrorInfo` whose `reason` tells a program
which error it is. Messages change between releases, reasons do not. Over JSON the response has the HTTP status of
the table below, and its body is a `google.rpc.Status` with the reason in `details`; see [JSON](../json.md). A
reason is documented by an RPC when its contract names it; the others can come from any call (access, deadlines,
outages).

An `INVALID_ARGUMENT` without a reason of its own has `INVALID_FIELDS` and lists each invalid field in a
`google.rpc.BadRequest`."""

_REASON = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)*")
_WORD = re.compile(r"\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+\b")


@dataclass(slots=True)
class Reason:
    """
    An error reason and its metadata.

    Args:
        name: UPPER_SNAKE.
        codes: the statuses that it comes with.
        message: of one place that raises it, with … for what varies; empty when it is put together elsewhere.
        rpcs: whose contracts document it.
    """

    name: str
    codes: set[str] = field(default_factory=set)
    message: str = ""
    rpcs: list[api.Rpc] = field(default_factory=list)


def reasons() -> list[Reason]:
    """
    Every reason, by name.
    """
    found: dict[str, Reason] = {}

    def of(name: str) -> Reason:
        return found.setdefault(name, Reason(name))

    for name, code, message in _raised():
        reason = of(name)
        reason.codes |= {code} if code else set()
        reason.message = reason.message or message
    codes = set(_STATUS)
    for rpc in api.rpcs():
        for code, meaning in rpc.errors.items():
            for name in set(_WORD.findall(meaning)) & set(found):
                if name not in codes:
                    found[name].codes.add(code)
                    found[name].rpcs.append(rpc)
    return sorted(found.values(), key=lambda each: each.name)


def _raised() -> Iterator[tuple[str, str, str]]:
    """
    Reason, status and message of every place that makes an error.
    """
    yield "INVALID_FIELDS", errors.InvalidArgument.code, ""
    statuses = _classes()
    for path in sources.files("services", "gateway"):
        makers = {**statuses, **_helpers(path, statuses)}
        yield from _constructors(path, statuses)
        for name, call in sources.calls(path):
            # InvalidArgument.of(…)
            maker = (
                getattr(call.func.value, "id", "") if isinstance(call.func, ast.Attribute) and name == "of" else name
            )
            if maker == "Refusal":
                yield from _refused(call)
            elif maker in makers and (reason := _reason_of(call, maker)):
                yield reason, makers[maker], _message(call)


def _classes() -> dict[str, str]:
    """
    The status of each class of errors: those of `services.chassis.errors`, and what derives from them anywhere.
    """
    known = {each.__name__: each.code for each in vars(errors).values() if _is_error(each)}
    defined = [
        (node.name, {getattr(base, "id", "") for base in node.bases})
        for path in sources.files("services")
        for node in sources.nodes(path)
        if isinstance(node, ast.ClassDef)
    ]
    # Once for each level of derivation below those.
    for _ in range(3):
        for name, bases in defined:
            for base in bases & set(known):
                known.setdefault(name, known[base])
    return known


def _is_error(found: object) -> TypeGuard[type[errors.ModelyardError]]:
    return isinstance(found, type) and issubclass(found, errors.ModelyardError)


def _constructors(path: Path, statuses: dict[str, str]) -> Iterator[tuple[str, str, str]]:
    """
    Classes of errors that pass a reason of their own to `super().__init__`.
    """
    for cls in sources.nodes(path):
        if isinstance(cls, ast.ClassDef) and cls.name in statuses:
            made = (node for node in ast.walk(cls) if isinstance(node, ast.Call))
            for call in made:
                if ast.unparse(call.func) == "super().__init__" and (reason := _reason_of(call, cls.name)):
                    yield reason, statuses[cls.name], _message(call)


def _status_of_instances(cls: ast.ClassDef, statuses: dict[str, str]) -> str:
    """
    The status of the error that the methods of a class raise with `self.reason`; empty when they raise none.
    """
    for node in ast.walk(cls):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
            status = statuses.get(getattr(node.exc.func, "id", ""), "")
            if status and ast.unparse(node.exc.args[0]) == "self.reason":
                return status
    return ""


def _helpers(path: Path, statuses: dict[str, str]) -> dict[str, str]:
    """
    Functions of a file with a parameter `reason` that return an error, and classes with a field `reason` whose methods
    raise one: a call of one makes it.
    """
    found = {}
    for node in sources.nodes(path):
        if isinstance(node, ast.ClassDef) and node.body and (status := _status_of_instances(node, statuses)):
            found[node.name] = status
        if isinstance(node, ast.FunctionDef) and node.args.args and node.args.args[0].arg == "reason":
            returned = getattr(node.returns, "id", "")
            if returned in statuses:
                found[node.name] = statuses[returned]
    return found


def _reason_of(call: ast.Call, name: str) -> str | None:
    given: ast.expr | None = next((each.value for each in call.keywords if each.arg == "reason"), None)
    if given is None and call.args and name != errors.InvalidArgument.__name__:
        given = call.args[0]
    if isinstance(given, ast.Constant) and isinstance(given.value, str) and _REASON.fullmatch(given.value):
        return given.value
    return None


def _refused(call: ast.Call) -> Iterator[tuple[str, str, str]]:
    values = dict(zip(("status", "reason", "message"), call.args, strict=False))
    values.update({each.arg: each.value for each in call.keywords if each.arg})
    reason = values.get("reason")
    if isinstance(reason, ast.Constant):
        status = ast.unparse(values.get("becomes") or values["status"])
        yield (
            str(reason.value),
            {"401": "UNAUTHENTICATED"}.get(status, "PERMISSION_DENIED"),
            _words(values.get("message")),
        )


def _message(call: ast.Call) -> str:
    given = next((each.value for each in call.keywords if each.arg == "message"), None)
    if given is None and len(call.args) > 1:
        given = call.args[1]
    text = _words(given)
    # A resource's name alone says nothing: the class of the error does.
    return text if " " in text else ""


def _words(node: ast.expr | None) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(str(each.value) if isinstance(each, ast.Constant) else "…" for each in node.values)
    return ""


def page() -> str:
    """
    The page.
    """
    found = reasons()
    statuses = md.table(("gRPC status", "HTTP status"), [(md.code(code), str(http)) for code, http in _STATUS.items()])
    rows = []
    for each in found:
        http = sorted({str(_STATUS[code]) for code in each.codes})
        documented = ", ".join(f"[{rpc.name}](api/{rpc.link})" for rpc in each.rpcs)
        codes = ", ".join(md.code(code) for code in sorted(each.codes))
        rows.append((md.code(each.name), codes, ", ".join(http), md.prose(each.message), documented))
    reasons_table = md.table(("reason", "status", "HTTP", "message", "documented by"), rows)
    return md.page("Error reasons", _ABOUT, "## Reasons", reasons_table, "## Statuses", statuses)
