"""
Promotions: requested moves of protected aliases, with their reviews.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from services.chassis.access.identity import Identity
from services.chassis.access.roles import Role
from services.chassis.checks import MOST_INT64
from services.chassis.errors import FailedPrecondition, InvalidArgument, UnmetCondition
from services.ledger.model.changes import Image
from services.registry.model.name_errors import name_error
from services.registry.model.names import MODEL_ID, NAMESPACE_ID, AliasName, ModelName, VersionName

MOST_COMMENT = 1024
_NAME = re.compile(rf"namespaces/({NAMESPACE_ID.pattern})/models/({MODEL_ID.pattern})/promotions/([1-9][0-9]{{0,18}})")
_FOREVER = float("inf")


class PromotionState(StrEnum):
    """
    The state of a promotion.
    """

    PENDING = "PENDING"
    DONE = "DONE"
    REJECTED = "REJECTED"
    CANCELLED = "CANCELLED"
    SUPERSEDED = "SUPERSEDED"


@dataclass(frozen=True, slots=True)
class PromotionName:
    """
    namespaces/{namespace}/models/{model}/promotions/{number}.
    """

    namespace: str
    model: str
    number: int

    @classmethod
    def parse(cls, text: str, field: str = "name") -> PromotionName:
        """
        Raises:
            InvalidArgument: *text* is not such a name.
        """
        match = _NAME.fullmatch(text)
        if match is None or int(match[3]) > MOST_INT64:
            raise InvalidArgument.of(
                field, name_error(text, "namespaces/{namespace}/models/{model}/promotions/{number}")
            )
        return cls(match[1], match[2], int(match[3]))

    @classmethod
    def nowhere(cls) -> PromotionName:
        """
        See `Name`.
        """
        return cls("", "", 0)

    @property
    def parent(self) -> ModelName:
        """
        The model whose alias is to be moved.
        """
        return ModelName(self.namespace, self.model)

    def __str__(self) -> str:
        return f"{self.parent}/promotions/{self.number}"


@dataclass(frozen=True, slots=True)
class Review:
    """
    An approval or a rejection.

    Args:
        groups: of the reviewer, as the token named them.
        time: None until it is written.
    """

    subject: str
    groups: tuple[str, ...]
    approved: bool
    comment: str
    time: datetime | None = None


@dataclass(frozen=True, slots=True)
class PromotionRequest:
    """
    What CreatePromotion asks for.

    Args:
        alias: the alias's id.
        version: the number of the version; None to remove the alias.
        comment: why.
    """

    parent: ModelName
    alias: str
    version: int | None
    comment: str

    @property
    def alias_name(self) -> AliasName:
        """
        The full name of the alias.
        """
        return AliasName(self.parent.namespace, self.parent.model, self.alias)


@dataclass(frozen=True, slots=True)
class Promotion:
    """
    A promotion.

    Args:
        version: None when the alias is to be removed.
        from_version: where the alias pointed when it was requested; None for nowhere.
        requester: its subject.
        groups: of the requester, as the token named them.
        missing: what it waits for, as far as that is known.
        move_revision: of the move; 0 until then.
        create_time, update_time: None until it is written.
    """

    name: PromotionName
    alias: str
    version: int | None
    from_version: int | None
    comment: str
    state: PromotionState
    requester: str
    groups: tuple[str, ...]
    reviews: tuple[Review, ...] = ()
    missing: tuple[UnmetCondition, ...] = ()
    move_revision: int = 0
    create_time: datetime | None = None
    update_time: datetime | None = None
    revision: int = 0

    def reviewed(self, review: Review) -> Promotion:
        """
        The promotion with another review, in place of an earlier one of the same person.
        """
        others = tuple(each for each in self.reviews if each.subject != review.subject)
        return replace(self, reviews=(*others, review))

    def requested_by(self, grant: tuple[str, Role] | None) -> Identity:
        """
        The requester, without scopes: what it may do is for the policies to say.

        Args:
            grant: what it has if it is an API token, see `Identity`; None for all others.
        """
        return Identity(self.requester, frozenset(), _FOREVER, frozenset(self.groups), grant)

    @property
    def approvers(self) -> Sequence[Identity]:
        """
        Those who have approved it: people, no API tokens, whose maker could be anybody.
        """
        people = [
            Identity(each.subject, frozenset(), _FOREVER, frozenset(each.groups))
            for each in self.reviews
            if each.approved
        ]
        return [each for each in people if not each.is_api_token]

    @property
    def alias_name(self) -> AliasName:
        """
        The full name of the alias.
        """
        return AliasName(self.name.namespace, self.name.model, self.alias)

    @property
    def version_name(self) -> VersionName | None:
        """
        The full name of the version; None when the alias is to be removed.
        """
        return None if self.version is None else VersionName(self.name.namespace, self.name.model, self.version)

    def image(self) -> Image:
        """
        The promotion as the audit log records it.
        """
        return {
            "alias": self.alias,
            "version": self.version,
            "from_version": self.from_version,
            "comment": self.comment,
            "state": self.state,
            "requester": self.requester,
            "reviews": [
                {"subject": each.subject, "approved": each.approved, "comment": each.comment} for each in self.reviews
            ],
        }


def check_pending(promotion: Promotion) -> None:
    """
    Raises:
        FailedPrecondition: the promotion is closed.
    """
    if promotion.state is not PromotionState.PENDING:
        raise FailedPrecondition(
            "PROMOTION_CLOSED",
            f"{promotion.name} is {promotion.state}: request another one",
            metadata={"resource": str(promotion.name), "state": promotion.state},
        )


def check_not_own(promotion: Promotion, subject: str) -> None:
    """
    Raises:
        FailedPrecondition: *subject* has requested the promotion.
    """
    if promotion.requester == subject:
        raise FailedPrecondition(
            "OWN_PROMOTION",
            f"{promotion.name} was requested by {subject}: somebody else has to review it, or cancel it",
            metadata={"resource": str(promotion.name)},
        )
