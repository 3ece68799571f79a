"""
Resource names: parsed once from requests, formatted once in responses.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from services.chassis.checks import MOST_INT64
from services.chassis.errors import InvalidArgument
from services.registry.model.name_errors import name_error

NAMESPACE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
MODEL_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
ALIAS_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,254}")
DEPLOYMENT_ID = re.compile(r"[a-z][a-z0-9_-]{0,62}")

_NAMESPACE = rf"namespaces/({NAMESPACE_ID.pattern})"
_MODEL = rf"{_NAMESPACE}/models/({MODEL_ID.pattern})"
_VERSION = rf"{_MODEL}/versions/([1-9][0-9]{{0,18}})"


@dataclass(frozen=True, slots=True)
class NamespaceName:
    """
    namespaces/{namespace}.
    """

    namespace: str

    @classmethod
    def parse(cls, text: str, field: str = "name") -> NamespaceName:
        """
        Raises:
            InvalidArgument: *text* is not namespaces/{namespace}.
        """
        match = _NAMESPACE_NAME.fullmatch(text)
        if match is None:
            raise InvalidArgument.of(field, name_error(text, "namespaces/{namespace}"))
        return cls(match[1])

    @classmethod
    def nowhere(cls) -> NamespaceName:
        """
        See `Name`.
        """
        return cls("")

    def __str__(self) -> str:
        return f"namespaces/{self.namespace}"


@dataclass(frozen=True, slots=True)
class ModelName:
    """
    namespaces/{namespace}/models/{model}.
    """

    namespace: str
    model: str

    @classmethod
    def parse(cls, text: str, field: str = "name") -> ModelName:
        """
        Raises:
            InvalidArgument: *text* is not namespaces/{namespace}/models/{model}.
        """
        match = _MODEL_NAME.fullmatch(text)
        if match is None:
            raise InvalidArgument.of(field, name_error(text, "namespaces/{namespace}/models/{model}"))
        return cls(match[1], match[2])

    @classmethod
    def nowhere(cls) -> ModelName:
        """
        See `Name`.
        """
        return cls("", "")

    @property
    def parent(self) -> NamespaceName:
        """
        The namespace that the model lives in.
        """
        return NamespaceName(self.namespace)

    def __str__(self) -> str:
        return f"namespaces/{self.namespace}/models/{self.model}"


@dataclass(frozen=True, slots=True)
class VersionName:
    """
    namespaces/{namespace}/models/{model}/versions/{number}.
    """

    namespace: str
    model: str
    number: int

    @classmethod
    def parse(cls, text: str, field: str = "name") -> VersionName:
        """
        Raises:
            InvalidArgument: *text* is not namespaces/{namespace}/models/{model}/versions/{number}.
        """
        match = _VERSION_NAME.fullmatch(text)
        if match is None or int(match[3]) > MOST_INT64:
            raise InvalidArgument.of(field, name_error(text, "namespaces/{namespace}/models/{model}/versions/{number}"))
        return cls(match[1], match[2], int(match[3]))

    @classmethod
    def nowhere(cls) -> VersionName:
        """
        See `Name`.
        """
        return cls("", "", 0)

    @property
    def parent(self) -> ModelName:
        """
        The model that this is a version of.
        """
        return ModelName(self.namespace, self.model)

    def __str__(self) -> str:
        return f"namespaces/{self.namespace}/models/{self.model}/versions/{self.number}"


@dataclass(frozen=True, slots=True)
class AliasName:
    """
    namespaces/{namespace}/models/{model}/aliases/{alias}.
    """

    namespace: str
    model: str
    alias: str

    @classmethod
    def parse(cls, text: str, field: str = "name") -> AliasName:
        """
        Raises:
            InvalidArgument: *text* is not namespaces/{namespace}/models/{model}/aliases/{alias}.
        """
        match = _ALIAS_NAME.fullmatch(text)
        if match is None:
            raise InvalidArgument.of(field, name_error(text, "namespaces/{namespace}/models/{model}/aliases/{alias}"))
        return cls(match[1], match[2], match[3])

    @classmethod
    def nowhere(cls) -> AliasName:
        """
        See `Name`.
        """
        return cls("", "", "")

    @property
    def parent(self) -> ModelName:
        """
        The model that the alias belongs to.
        """
        return ModelName(self.namespace, self.model)

    def __str__(self) -> str:
        return f"namespaces/{self.namespace}/models/{self.model}/aliases/{self.alias}"


@dataclass(frozen=True, slots=True)
class CardName:
    """
    namespaces/{namespace}/models/{model}/card.
    """

    namespace: str
    model: str

    @classmethod
    def parse(cls, text: str, field: str = "name") -> CardName:
        """
        Raises:
            InvalidArgument: *text* is not namespaces/{namespace}/models/{model}/card.
        """
        match = _CARD_NAME.fullmatch(text)
        if match is None:
            raise InvalidArgument.of(field, name_error(text, "namespaces/{namespace}/models/{model}/card"))
        return cls(match[1], match[2])

    @classmethod
    def nowhere(cls) -> CardName:
        """
        See `Name`.
        """
        return cls("", "")

    @property
    def parent(self) -> ModelName:
        """
        The model that the card describes.
        """
        return ModelName(self.namespace, self.model)

    def __str__(self) -> str:
        return f"namespaces/{self.namespace}/models/{self.model}/card"


@dataclass(frozen=True, slots=True)
class DeploymentName:
    """
    namespaces/{namespace}/deployments/{deployment}.
    """

    namespace: str
    deployment: str

    @classmethod
    def parse(cls, text: str, field: str = "name") -> DeploymentName:
        """
        Raises:
            InvalidArgument: *text* is not namespaces/{namespace}/deployments/{deployment}.
        """
        match = _DEPLOYMENT_NAME.fullmatch(text)
        if match is None:
            raise InvalidArgument.of(field, name_error(text, "namespaces/{namespace}/deployments/{deployment}"))
        return cls(match[1], match[2])

    @classmethod
    def nowhere(cls) -> DeploymentName:
        """
        See `Name`.
        """
        return cls("", "")

    @property
    def parent(self) -> NamespaceName:
        """
        The namespace that the deployment belongs to.
        """
        return NamespaceName(self.namespace)

    def __str__(self) -> str:
        return f"namespaces/{self.namespace}/deployments/{self.deployment}"


_NAMESPACE_NAME = re.compile(_NAMESPACE)
_MODEL_NAME = re.compile(_MODEL)
_VERSION_NAME = re.compile(_VERSION)
_ALIAS_NAME = re.compile(rf"{_MODEL}/aliases/({ALIAS_ID.pattern})")
_CARD_NAME = re.compile(rf"{_MODEL}/card")
_DEPLOYMENT_NAME = re.compile(rf"{_NAMESPACE}/deployments/({DEPLOYMENT_ID.pattern})")

# Prefixes that a watcher may request: names of resources and collections. Deliberately permissive: it is valid to
# watch a prefix of resources that do not exist yet.
_PREFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}(/[A-Za-z0-9_][A-Za-z0-9._-]{0,254}){0,15}")


def is_resource_prefix(text: str) -> bool:
    """
    Whether *text* has the form of a resource's name or of a collection's.
    """
    return _PREFIX.fullmatch(text) is not None
