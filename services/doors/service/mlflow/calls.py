"""
The parameters of a call of MLflow, from its query or its JSON body.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from starlette.requests import Request

from services.chassis.checks import SLUG
from services.chassis.errors import InvalidArgument, NotFound
from services.doors.model.mlflow.names import checked_name, model_id
from services.doors.service.doors import Doors
from services.doors.service.http import json_body, parameter, token
from services.doors.service.mlflow.errors import NAMES
from services.doors.store.models import Models

_ALIAS: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,254}")
_NUMBER: Final = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True, slots=True)
class Call:
    """
    A call.

    Args:
        parent: namespaces/{namespace}.
        prefix: of paths in this namespace, "" or /mlflow/{namespace}.
        models: the registry for it.
        given: its parameters.
        names: name, version and alias that it names, as far as they were read.
    """

    parent: str
    prefix: str
    models: Models
    given: Mapping[str, Any]
    names: dict[str, str]

    @classmethod
    async def of(cls, doors: Doors, request: Request) -> Call:
        """
        Read a call.

        Raises:
            InvalidArgument: its body is no JSON object, or too large.
            NotFound: no namespace can have this name (NAMESPACE_NOT_FOUND).
        """
        parent, prefix = parent_of(doors, request)
        query = request.query_params
        lists = {key: query.getlist(key) for key in query}
        given: dict[str, Any] = {key: each[0] if len(each) == 1 else each for key, each in lists.items()}
        if request.method != "GET":
            given = await json_body(request)
        names: dict[str, str] = {}
        request.scope[NAMES] = names
        return cls(parent, prefix, Models(doors.suite, token(request)), given, names)

    def text(self, field: str, *, required: bool = False) -> str:
        """
        A parameter; empty where it is not given.

        Raises:
            InvalidArgument: it is no text, or is required and not given.
        """
        value = self.given.get(field)
        if value is None:
            value = ""
        if isinstance(value, int | float) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str):
            raise InvalidArgument.of("", f"Invalid value for parameter '{field}': it must be a text.")
        if required and not value:
            raise InvalidArgument.of("", f"Missing value for required parameter '{field}'.")
        _encodable(field, value)
        return value

    def texts(self, field: str) -> list[str]:
        """
        A parameter that may be given more than once.

        Raises:
            InvalidArgument: it is no list of texts.
        """
        value = self.given.get(field) or []
        value = [value] if isinstance(value, str) else value
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise InvalidArgument.of("", f"Invalid value for parameter '{field}': it must be a list of texts.")
        for each in value:
            _encodable(field, each)
        return value

    def tags(self) -> dict[str, str]:
        """
        The parameter `tags`.

        Raises:
            InvalidArgument: it is no list of keys and values.
        """
        value = self.given.get("tags") or []
        found = {}
        for each in value if isinstance(value, list) else [value]:
            if not isinstance(each, dict) or not isinstance(each.get("key"), str):
                raise InvalidArgument.of("", "Invalid value for parameter 'tags': each has a key and a value.")
            text = each.get("value", "")
            found[each["key"]] = text if isinstance(text, str) else str(text)
            _encodable("tags", each["key"] + found[each["key"]])
        return found

    def whole(self, field: str, usual: int, most: int) -> int:
        """
        A number of results.

        Raises:
            InvalidArgument: it is no number from 1 to *most*.
        """
        text = self.text(field)
        if not text:
            return usual
        if not _NUMBER.fullmatch(text) or not 1 <= int(text) <= most:
            raise InvalidArgument.of(
                "", f"Invalid value {text[:40]!r} for parameter '{field}': it must be a number from 1 to {most}."
            )
        return int(text)

    def flag(self, field: str) -> bool:
        """
        A parameter that is true or false.
        """
        value = self.given.get(field)
        return value is True or (isinstance(value, str) and value.lower() == "true")

    def name(self, field: str = "name") -> str:
        """
        The name of a registered model.

        Raises:
            InvalidArgument: no model can have it.
        """
        found = checked_name(self.text(field))
        self.names.setdefault("name", found)
        return found

    def model(self) -> str:
        """
        The registry's name of the model that `name` names.

        Raises:
            InvalidArgument: no model can have it.
        """
        return f"{self.parent}/models/{model_id(self.name())}"

    def number(self) -> int:
        """
        The number of the version that `version` names.

        Raises:
            InvalidArgument: it is no number.
            NotFound: no version can have it (VERSION_NOT_FOUND).
        """
        text = self.text("version", required=True)
        if not _NUMBER.fullmatch(text):
            raise InvalidArgument.of("", f"Parameter 'version' must be an integer, got '{text[:100]}'.")
        self.names["version"] = str(int(text))
        if int(text) == 0:
            raise NotFound("VERSION_NOT_FOUND", "0")
        return int(text)

    def alias(self) -> str:
        """
        The id of the alias that `alias` names.

        Raises:
            InvalidArgument: no alias can have it.
        """
        text = self.text("alias")
        if not text:
            raise InvalidArgument.of("", "Registered model alias name cannot be empty.")
        if not _ALIAS.fullmatch(text):
            raise InvalidArgument.of(
                "",
                f"Invalid alias name: '{text[:100]}'. Names of aliases have at most 255 letters, digits, underscores, "
                "dots and hyphens, the first one no dot and no hyphen.",
            )
        self.names["alias"] = text
        return text


def parent_of(doors: Doors, request: Request) -> tuple[str, str]:
    """
    The namespace of a call, and the prefix of its paths.

    Raises:
        NotFound: no namespace can have this name (NAMESPACE_NOT_FOUND).
    """
    if "namespace" not in request.path_params:
        return f"namespaces/{doors.namespace}", ""
    found = parameter(request, "namespace")
    if not SLUG.fullmatch(found):
        raise NotFound("NAMESPACE_NOT_FOUND", found[:100], f"there is no namespace {found[:100]!r}")
    return f"namespaces/{found}", f"/mlflow/{found}"


def _encodable(field: str, text: str) -> None:
    # JSON has halves of surrogate pairs, which UTF-8 has not.
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidArgument.of("", f"Invalid value for parameter '{field}': it is not UTF-8.") from None
