"""
Rules that protect aliases, and promotions.
"""

from __future__ import annotations

import ast
import asyncio
import itertools
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2, status_pb2

import services.registry
from modelyard.changes.v1 import changes_pb2
from modelyard.registry.v1 import (
    alias_rules_pb2,
    aliases_pb2,
    audit_pb2,
    evaluations_pb2,
    models_pb2,
    namespaces_pb2,
    policies_pb2,
    promotions_pb2,
    tokens_pb2,
    versions_pb2,
)
from services.registry.model.alias_rules import AliasRuleDraft
from services.registry.store.models import ModelStore
from services.registry.tests.guarded import Guarded
from services.registry.tests.server import Failing, Registry

ROLE = policies_pb2.Policy
STATE = promotions_pb2.Promotion
MOVE = aliases_pb2.MoveAliasesRequest.Move
_numbers = itertools.count()


@dataclass
class Team:
    """
    A namespace with a model and two READY versions, of which `production` points at the first.

    Policy: ann owns it, max, mia and moe are maintainers, will and wendy writers.
    """

    guarded: Guarded
    namespace: str
    model: str = field(init=False)

    def __post_init__(self) -> None:
        self.model = f"namespaces/{self.namespace}/models/m"

    @property
    def registry(self) -> Registry:
        return self.guarded.registry

    def as_(self, subject: str, **claims: Any) -> dict[str, Any]:
        """
        The arguments of a call of *subject*; "root" has the scope `admin`.
        """
        return self.guarded.as_(subject, "admin" if subject == "root" else "registry.read registry.write", **claims)

    def version(self, number: int) -> str:
        return f"{self.model}/versions/{number}" if number else ""

    async def policy(self, **roles: str) -> None:
        """
        Replace the policy.
        """
        usual = {"owner": "user:ann", "maintainer": "user:max user:mia user:moe", "writer": "user:will user:wendy"}
        await self.guarded.set_policy(f"namespaces/{self.namespace}/policy", private=True, **{**usual, **roles})

    async def rule(self, name: str = "r", *, of_model: bool = False, by: str = "ann", **fields: Any) -> Any:
        """
        Set a rule, of `production` unless other aliases are given.
        """
        parent = self.model if of_model else f"namespaces/{self.namespace}"
        rule = alias_rules_pb2.AliasRule(name=f"{parent}/aliasRules/{name}", **{"aliases": ["production"], **fields})
        return await self.registry.alias_rules.SetAliasRule(
            alias_rules_pb2.SetAliasRuleRequest(rule=rule), **self.as_(by)
        )

    async def move(self, by: str, number: int, alias: str = "production", *, dry: bool = False) -> Any:
        """
        Move an alias directly.
        """
        move = MOVE(alias_id=alias, version=self.version(number))
        request = aliases_pb2.MoveAliasesRequest(parent=self.model, moves=[move], validate_only=dry)
        return await self.registry.aliases.MoveAliases(request, **self.as_(by))

    async def request(self, by: str, number: int = 2, *, dry: bool = False, **claims: Any) -> promotions_pb2.Promotion:
        """
        Request a promotion of `production`.
        """
        promotion = promotions_pb2.Promotion(alias_id="production", version=self.version(number), comment="because")
        request = promotions_pb2.CreatePromotionRequest(parent=self.model, promotion=promotion, validate_only=dry)
        return await self.registry.promotions.CreatePromotion(request, **self.as_(by, **claims))

    async def approve(self, by: str, promotion: promotions_pb2.Promotion, **fields: Any) -> promotions_pb2.Promotion:
        """
        Approve a promotion.
        """
        request = promotions_pb2.ApprovePromotionRequest(name=promotion.name, **fields)
        return await self.registry.promotions.ApprovePromotion(request, **self.as_(by))

    async def token(self, role: str) -> tokens_pb2.CreateApiTokenResponse:
        """
        An API token of the namespace.
        """
        token = tokens_pb2.ApiToken(role=ROLE.Role.Value(role), expire_time=Timestamp(seconds=int(time.time()) + 3600))
        request = tokens_pb2.CreateApiTokenRequest(parent=f"namespaces/{self.namespace}", api_token=token)
        owner = self.guarded.as_("ann", "registry.read registry.write assets.read assets.write")
        return await self.registry.api_tokens.CreateApiToken(request, **owner)

    async def request_with(self, secret: str) -> promotions_pb2.Promotion:
        """
        Request a promotion of `production` with an API token.
        """
        promotion = promotions_pb2.Promotion(alias_id="production", version=self.version(2))
        request = promotions_pb2.CreatePromotionRequest(parent=self.model, promotion=promotion)
        return await self.registry.promotions.CreatePromotion(request, **bearer(secret))

    async def get(self, promotion: promotions_pb2.Promotion) -> promotions_pb2.Promotion:
        """
        A promotion as it is stored.
        """
        return await self.registry.promotions.GetPromotion(
            promotions_pb2.GetPromotionRequest(name=promotion.name), **self.as_("ann")
        )

    async def production(self) -> int:
        """
        The number of the version that `production` points at.
        """
        request = aliases_pb2.GetAliasRequest(name=f"{self.model}/aliases/production")
        found = await self.registry.aliases.GetAlias(request, **self.as_("ann"))
        return int(found.version.rpartition("/")[2])

    async def record(self, number: int, value: float, metric: str = "top1") -> None:
        """
        Record a result of a version on `imagenet`.
        """
        result = evaluations_pb2.Evaluation(
            version=self.version(number), dataset="imagenet", metric=metric, value=value
        )
        request = evaluations_pb2.RecordEvaluationsRequest(parent=f"namespaces/{self.namespace}", evaluations=[result])
        await self.registry.evaluations.RecordEvaluations(request, **self.as_("will"))

    async def label(self, number: int, **labels: str) -> None:
        """
        Set the labels of a version.
        """
        request = versions_pb2.UpdateVersionRequest(
            version=versions_pb2.Version(name=self.version(number), labels=labels),
            update_mask=FieldMask(paths=["labels"]),
        )
        await self.registry.versions.UpdateVersion(request, **self.as_("will"))

    async def add_version(self) -> int:
        """
        Add a READY version.
        """
        made = await self.registry.versions.CreateVersion(
            versions_pb2.CreateVersionRequest(parent=self.model), **self.as_("will")
        )
        await self.registry.versions.FinalizeVersion(
            versions_pb2.FinalizeVersionRequest(name=made.name), **self.as_("will")
        )
        return int(made.name.rpartition("/")[2])

    async def audit(self, **request: Any) -> list[audit_pb2.AuditEntry]:
        """
        The audit entries of the namespace, the newest first.
        """
        wanted = audit_pb2.ListAuditEntriesRequest(
            **{"resource_prefix": f"namespaces/{self.namespace}", "page_size": 100, **request}
        )
        return list((await self.registry.audit.ListAuditEntries(wanted, **self.as_("ann"))).entries)


@pytest.fixture
async def team(guarded: Guarded) -> Team:
    """
    A team in a private namespace of its own.
    """
    found = Team(guarded, f"promotions-{next(_numbers)}")
    await guarded.namespace(found.namespace, "ann")
    await found.policy()
    request = models_pb2.CreateModelRequest(parent=f"namespaces/{found.namespace}", model_id="m")
    await found.registry.models.CreateModel(request, **found.as_("will"))
    for _ in range(2):
        await found.add_version()
    await found.move("max", 1)
    return found


def unmet(failure: Failing) -> list[tuple[str, str]]:
    """
    The violations of a PreconditionFailure: types, and the last parts of the rules' names.
    """
    assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "ALIAS_PROTECTED"), failure.message
    status = status_pb2.Status.FromString(failure.trailing["grpc-status-details-bin"])
    found = error_details_pb2.PreconditionFailure()
    assert any(detail.Unpack(found) for detail in status.details)
    assert all(each.description for each in found.violations)
    return [(each.type, each.subject.rpartition("/")[2]) for each in found.violations]


def bearer(secret: str) -> dict[str, Any]:
    """
    The arguments of a call with an API token.
    """
    return {"metadata": [("authorization", f"Bearer {secret}")]}


def missing(promotion: promotions_pb2.Promotion) -> list[tuple[str, str]]:
    """
    What a promotion waits for.
    """
    return [(each.type, each.rule.rpartition("/")[2]) for each in promotion.missing]


async def test_an_unprotected_alias_moves_as_before(team: Team) -> None:
    """
    A rule concerns the aliases that it matches, and no others.
    """
    await team.rule(aliases=["production"], required_approvals=1)
    await team.move("max", 2, "staging")


@pytest.mark.parametrize("alias", ["Production", "9lives", "_v1.2", "prod.eu-west", "a" * 255])
async def test_every_alias_can_be_protected(team: Team, alias: str) -> None:
    """
    Whatever an alias may be called, a rule can name it.
    """
    await team.rule(aliases=[alias], required_approvals=1)
    with Failing() as failed:
        await team.move("max", 2, alias)
    assert unmet(failed) == [("APPROVALS", "r")]


async def test_a_direct_move_needs_the_approvals(team: Team) -> None:
    """
    A protected alias is not moved directly; the error names the rule and the command that requests a promotion.
    """
    await team.rule(required_approvals=1)
    with Failing() as failed:
        await team.move("max", 2)
    assert unmet(failed) == [("APPROVALS", "r")]
    assert "modelyard promotions request" in failed.message
    assert await team.production() == 1


async def test_all_rules_have_to_hold(team: Team) -> None:
    """
    Rules of the namespace and of the model that match: each that does not hold is a violation of its own.
    """
    await team.rule("people", required_approvals=2)
    await team.rule("quality", of_model=True, aliases=["prod*"], filter="evaluations.imagenet.top1 >= 80")
    await team.rule("release", mover_role=ROLE.ROLE_OWNER)
    with Failing() as failed:
        await team.move("max", 2)
    assert sorted(unmet(failed)) == [("APPROVALS", "people"), ("FILTER", "quality"), ("MOVER", "release")]


async def test_validate_only_says_what_would_be_refused(team: Team) -> None:
    """
    `validate_only` has the error of the real call, and writes nothing: no move and no promotion.
    """
    await team.rule(required_approvals=1)
    with Failing() as failed:
        await team.move("max", 2, dry=True)
    assert unmet(failed) == [("APPROVALS", "r")]
    promotion = await team.request("will", dry=True)
    assert (promotion.state, missing(promotion)) == (STATE.STATE_PENDING, [("MOVER", "production"), ("APPROVALS", "r")])
    assert (promotion.revision, promotion.etag) == (0, "")
    with Failing() as failed:
        await team.get(promotion)
    assert failed.reason == "PROMOTION_NOT_FOUND"


async def test_the_last_approval_moves_the_alias(team: Team) -> None:
    """
    The alias moves with the last approval, with its revision and on behalf of the approver.
    """
    await team.rule(required_approvals=2)
    promotion = await team.request("will")
    assert (promotion.state, promotion.requester, promotion.from_version) == (
        STATE.STATE_PENDING,
        "will",
        team.version(1),
    )
    first = await team.approve("max", promotion)
    assert (first.state, missing(first)) == (STATE.STATE_PENDING, [("APPROVALS", "r")])
    assert await team.production() == 1
    done = await team.approve("mia", promotion, comment="good")
    assert (done.state, done.move_revision) == (STATE.STATE_DONE, done.revision)
    alias = await team.registry.aliases.GetAlias(
        aliases_pb2.GetAliasRequest(name=f"{team.model}/aliases/production"), **team.as_("ann")
    )
    assert (alias.version, alias.revision, alias.actor) == (team.version(2), done.revision, "mia")
    assert [(each.subject, each.comment) for each in done.reviews] == [("max", ""), ("mia", "good")]
    assert all(each.HasField("review_time") for each in done.reviews)
    assert await team.get(promotion) == done


async def test_what_needs_no_approval_is_done_at_once(team: Team) -> None:
    """
    A promotion by somebody who may move the alias, to a version that satisfies the rules, is DONE when it is requested.
    """
    await team.rule(filter="evaluations.imagenet.top1 >= 80")
    await team.record(2, 81)
    assert (await team.request("max")).state == STATE.STATE_DONE
    assert await team.production() == 2


async def test_a_writer_needs_somebody_who_may_move(team: Team) -> None:
    """
    Without any rule, too, a writer's promotion waits for somebody who may move aliases.
    """
    promotion = await team.request("will")
    assert (promotion.state, missing(promotion)) == (STATE.STATE_PENDING, [("MOVER", "production")])
    assert (await team.approve("max", promotion)).state == STATE.STATE_DONE


async def test_two_approvals_of_one_person_are_one(team: Team) -> None:
    """
    Approvers are counted by their subjects.
    """
    await team.rule(required_approvals=2)
    promotion = await team.request("will")
    await team.approve("max", promotion)
    again = await team.approve("max", promotion)
    assert (again.state, len(again.reviews), missing(again)) == (STATE.STATE_PENDING, 1, [("APPROVALS", "r")])


async def test_the_requester_does_not_approve(team: Team) -> None:
    """
    Nobody reviews a promotion of their own.
    """
    await team.rule(required_approvals=1)
    promotion = await team.request("max")
    method: Any
    for method, request in (
        (team.registry.promotions.ApprovePromotion, promotions_pb2.ApprovePromotionRequest(name=promotion.name)),
        (team.registry.promotions.RejectPromotion, promotions_pb2.RejectPromotionRequest(name=promotion.name)),
    ):
        with Failing() as failed:
            await method(request, **team.as_("max"))
        assert failed.reason == "OWN_PROMOTION"
    assert await team.production() == 1


async def test_an_approver_needs_the_role(team: Team) -> None:
    """
    Who has less than the rule's role can neither approve nor reject.
    """
    await team.rule(required_approvals=1, approver_role=ROLE.ROLE_OWNER)
    promotion = await team.request("will")
    method: Any
    for method, request in (
        (team.registry.promotions.ApprovePromotion, promotions_pb2.ApprovePromotionRequest(name=promotion.name)),
        (team.registry.promotions.RejectPromotion, promotions_pb2.RejectPromotionRequest(name=promotion.name)),
    ):
        with Failing() as failed:
            await method(request, **team.as_("max"))
        assert (failed.code, failed.reason) == (grpc.StatusCode.PERMISSION_DENIED, "APPROVER_ROLE")
    assert (await team.approve("ann", promotion)).state == STATE.STATE_DONE


async def test_a_revoked_approver_does_not_count(team: Team) -> None:
    """
    The roles of earlier approvers are those of the moment of the last approval.
    """
    await team.rule(required_approvals=2)
    promotion = await team.request("will")
    await team.approve("max", promotion)
    await team.policy(maintainer="user:mia user:moe")
    later = await team.approve("mia", promotion)
    assert (later.state, missing(later)) == (STATE.STATE_PENDING, [("APPROVALS", "r")])
    assert (await team.approve("moe", promotion)).state == STATE.STATE_DONE


async def test_a_group_approves(team: Team) -> None:
    """
    Approvers and requesters count with the groups that their tokens named.
    """
    await team.policy(maintainer="group:release")
    await team.rule(required_approvals=1, movers=["group:science"])
    promotion = await team.request("will", groups=["science"])
    request = promotions_pb2.ApprovePromotionRequest(name=promotion.name)
    done = await team.registry.promotions.ApprovePromotion(request, **team.as_("rita", groups=["release"]))
    assert done.state == STATE.STATE_DONE


async def test_an_api_token_requests_with_its_own_role(team: Team) -> None:
    """
    A writer's token does not move the alias where everybody else may; a maintainer's does where nobody else may.
    """
    # Not private: by the first policy of the registry, everyone is a maintainer.
    await team.guarded.set_policy(f"namespaces/{team.namespace}/policy", owner="user:ann", maintainer="user:max")
    promotion = await team.request_with((await team.token("ROLE_WRITER")).secret)
    assert (promotion.state, missing(promotion)) == (STATE.STATE_PENDING, [("MOVER", "production")])
    assert await team.production() == 1
    await team.registry.promotions.CancelPromotion(
        promotions_pb2.CancelPromotionRequest(name=promotion.name), **team.as_("max")
    )
    await team.policy()
    assert (await team.request_with((await team.token("ROLE_MAINTAINER")).secret)).state == STATE.STATE_DONE
    assert await team.production() == 2


async def test_a_revoked_token_does_not_move(team: Team) -> None:
    """
    What a maintainer's token has requested does not move the alias by its role once the token is revoked.
    """
    await team.rule(required_approvals=1, mover_role=ROLE.ROLE_MAINTAINER, approver_role=ROLE.ROLE_WRITER)
    token = await team.token("ROLE_MAINTAINER")
    promotion = await team.request_with(token.secret)
    assert missing(promotion) == [("APPROVALS", "r")]
    await team.registry.api_tokens.RevokeApiToken(
        tokens_pb2.RevokeApiTokenRequest(name=token.api_token.name), **team.as_("ann")
    )
    later = await team.approve("will", promotion)
    assert (later.state, missing(later)) == (STATE.STATE_PENDING, [("MOVER", "production"), ("MOVER", "r")])
    assert await team.production() == 1


async def test_an_api_token_is_no_second_person(team: Team) -> None:
    """
    An API token neither approves nor rejects, whatever its role: its maker could be the requester.
    """
    await team.rule(required_approvals=1)
    promotion = await team.request("ann")
    secret = (await team.token("ROLE_OWNER")).secret
    method: Any
    for method, request in (
        (team.registry.promotions.ApprovePromotion, promotions_pb2.ApprovePromotionRequest(name=promotion.name)),
        (team.registry.promotions.RejectPromotion, promotions_pb2.RejectPromotionRequest(name=promotion.name)),
    ):
        with Failing() as failed:
            await method(request, **bearer(secret))
        assert (failed.code, failed.reason) == (grpc.StatusCode.PERMISSION_DENIED, "API_TOKEN")
    assert (await team.get(promotion)).state == STATE.STATE_PENDING


async def test_who_made_the_token_that_requested_is_no_second_person(team: Team) -> None:
    """
    Whoever created the API token that requested a promotion cannot review it; somebody else can.
    """
    await team.rule(required_approvals=1)
    promotion = await team.request_with((await team.token("ROLE_MAINTAINER")).secret)
    with Failing() as failed:
        await team.approve("ann", promotion)
    assert (failed.code, failed.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "OWN_PROMOTION")
    assert (await team.approve("max", promotion)).state == STATE.STATE_DONE


async def test_an_approval_of_an_api_token_does_not_count(team: Team) -> None:
    """
    Nor does one that an earlier release has stored, although everybody would have the role.
    """
    await team.rule(required_approvals=2)
    promotion = await team.request("will")
    token = (await team.token("ROLE_OWNER")).api_token.name.rpartition("/")[2]
    review = {"subject": f"token:{team.namespace}/{token}", "groups": [], "approved": True, "comment": ""}
    async with team.registry.owner() as connection:
        await connection.execute(
            "UPDATE promotions SET reviews = jsonb_build_array($1::jsonb || jsonb_build_object('time', now()))"
            " WHERE namespace_id = $2",
            json.dumps(review),
            team.namespace,
        )
    await team.policy(maintainer="authenticated")
    later = await team.approve("max", promotion)
    assert (later.state, missing(later)) == (STATE.STATE_PENDING, [("APPROVALS", "r")])


async def replace_model(team: Team, **caller: Any) -> None:
    """
    Delete the model, and create another one in its place.
    """
    await team.registry.models.DeleteModel(models_pb2.DeleteModelRequest(name=team.model), **team.as_("max"))
    request = models_pb2.CreateModelRequest(parent=f"namespaces/{team.namespace}", model_id="m", replace_deleted=True)
    await team.registry.models.CreateModel(request, **caller)


async def test_replacing_does_not_remove_rules(team: Team) -> None:
    """
    A model with rules of its own is replaced by those who may purge it: its rules, which owners set, go with it. One
    without is replaced by maintainers.
    """
    await team.rule("of_all", required_approvals=1)
    await replace_model(team, **team.as_("max"))
    await team.rule("of_model", of_model=True, required_approvals=1)
    with Failing() as failed:
        await replace_model(team, **team.as_("max"))
    assert (failed.code, failed.metadata["permission"]) == (grpc.StatusCode.PERMISSION_DENIED, "models.purge")
    await team.registry.models.UndeleteModel(models_pb2.UndeleteModelRequest(name=team.model), **team.as_("max"))
    listed = await team.registry.alias_rules.ListAliasRules(
        alias_rules_pb2.ListAliasRulesRequest(parent=team.model), **team.as_("ann")
    )
    assert [each.name.rpartition("/")[2] for each in listed.rules] == ["of_model"]
    await replace_model(team, **team.as_("ann"))


async def test_rules_that_come_before_the_replacement(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A model that is deleted with its rules after the permission was asked for is not replaced: the retry asks again.
    """
    await team.rule("of_model", of_model=True, required_approvals=1)

    async def none_yet(*_: object) -> bool:
        return False

    monkeypatch.setattr(ModelStore, "has_rules", none_yet)
    with Failing() as failed:
        await replace_model(team, **team.as_("max"))
    assert (failed.code, failed.reason) == (grpc.StatusCode.ABORTED, "MODEL_CHANGED")


async def test_replacing_by_the_scope_admin_is_marked(team: Team) -> None:
    """
    The audit log marks the replacement of a model by a writer whom only the scope `admin` allows to delete it.
    """
    await replace_model(team, **team.guarded.as_("will", "registry.read registry.write admin"))
    entries = await team.audit(resource_prefix=team.model)
    assert {(each.actor, each.break_glass) for each in entries if each.action == "CreateModel"} == {
        ("will", False),
        ("will", True),
    }


async def test_movers(team: Team) -> None:
    """
    A rule's movers move the alias directly, and no other maintainer does; a promotion needs one of them.
    """
    await team.rule(movers=["user:mia"])
    with Failing() as failed:
        await team.move("max", 2)
    assert unmet(failed) == [("MOVER", "r")]
    assert missing(await team.request("max")) == [("MOVER", "r")]
    await team.move("mia", 2)


@pytest.mark.parametrize(
    ("filter_", "holds"),
    [
        ("evaluations.imagenet.top1 >= 80", True),
        ("evaluations.imagenet.top1 > 81", False),
        ("evaluations.imagenet.top5:*", False),
        ('evaluations.imagenet.top1 >= 80 AND labels.license != "unknown"', True),
        ("labels.license = mit", True),
        ("labels:reviewed", False),
        ("NOT labels.license = unknown", True),
        ("latest_version = 2", True),
        ("labels.team = vision", True),
        ("evaluations.imagenet.loss <= 0.5", True),
    ],
)
async def test_filters_are_over_the_version(team: Team, filter_: str, holds: bool) -> None:
    """
    A filter sees the results and the labels of the version, not of other versions; labels of the model where the
    version has none; and results the way in which the metric is better.
    """
    model = models_pb2.Model(name=team.model, labels={"team": "vision", "license": "unknown"})
    await team.registry.models.UpdateModel(
        models_pb2.UpdateModelRequest(model=model, update_mask=FieldMask(paths=["labels"])), **team.as_("will")
    )
    metric = evaluations_pb2.Metric(metric="loss", direction=evaluations_pb2.Metric.DIRECTION_LOWER)
    await team.registry.evaluations.UpdateMetric(
        evaluations_pb2.UpdateMetricRequest(parent=f"namespaces/{team.namespace}", metric=metric),
        **team.as_("will"),
    )
    await team.label(1, license="unknown", reviewed="yes")
    await team.label(2, license="mit")
    await team.record(1, 99)
    await team.record(1, 50, "top5")
    for value in (81, 70):
        await team.record(2, value)
    for loss in (0.4, 0.9):
        await team.record(2, loss, "loss")
    await team.rule(filter=filter_)
    if holds:
        await team.move("max", 2)
    else:
        with Failing() as failed:
            await team.move("max", 2)
        assert unmet(failed) == [("FILTER", "r")]


async def test_conditions_are_checked_at_the_request(team: Team) -> None:
    """
    A promotion to a version that does not satisfy a filter is not created.
    """
    await team.rule(required_approvals=1, filter="labels.reviewed = yes")
    with Failing() as failed:
        await team.request("max")
    assert unmet(failed) == [("FILTER", "r"), ("APPROVALS", "r")]
    listed = await team.registry.promotions.ListPromotions(
        promotions_pb2.ListPromotionsRequest(parent=team.model), **team.as_("ann")
    )
    assert not listed.promotions


async def test_conditions_are_checked_again(team: Team) -> None:
    """
    What held at the request has to hold at the approval; the approval that fails is not recorded.
    """
    await team.rule(required_approvals=1, filter="labels.reviewed = yes")
    await team.label(2, reviewed="yes")
    promotion = await team.request("will")
    await team.label(2, reviewed="no")
    with Failing() as failed:
        await team.approve("max", promotion)
    assert unmet(failed) == [("FILTER", "r")]
    assert not (await team.get(promotion)).reviews
    await team.label(2, reviewed="yes")
    assert (await team.approve("max", promotion)).state == STATE.STATE_DONE


async def test_a_rule_that_was_tightened_since(team: Team) -> None:
    """
    The rules of the approval decide, not those of the request.
    """
    await team.rule(required_approvals=1)
    promotion = await team.request("will")
    await team.rule(required_approvals=2)
    first = await team.approve("max", promotion)
    assert (first.state, missing(first)) == (STATE.STATE_PENDING, [("APPROVALS", "r")])
    assert (await team.approve("mia", promotion)).state == STATE.STATE_DONE


async def test_another_move_supersedes(team: Team) -> None:
    """
    A promotion does not overwrite a newer move: that closes the promotion, and the change stream says so.
    """
    promotion = await team.request("will")
    await team.add_version()
    moved = await team.move("max", 3)
    found = await team.get(promotion)
    assert (found.state, found.revision) == (STATE.STATE_SUPERSEDED, moved.aliases[0].revision)
    with Failing() as failed:
        await team.approve("mia", promotion)
    assert failed.reason == "PROMOTION_CLOSED"
    assert await team.production() == 3
    request = changes_pb2.WatchChangesRequest(resource_prefix=promotion.name, start_revision=promotion.revision)
    kinds = []
    async for event in (watch := team.registry.changes.WatchChanges(request, **team.as_("ann"))):
        kinds += [change.kind for change in event.revision.changes if change.resource == promotion.name]
        if len(kinds) == 2:
            break
    watch.cancel()
    assert kinds == [changes_pb2.Change.KIND_CREATED, changes_pb2.Change.KIND_UPDATED]


async def test_a_rollback_needs_no_approvals(team: Team) -> None:
    """
    A maintainer goes back to the version before without approvals or conditions, and the audit log says that it was a
    rollback; a writer does not.
    """
    await team.move("max", 2)
    await team.rule(required_approvals=2, mover_role=ROLE.ROLE_OWNER, filter="labels.reviewed = yes")
    request = aliases_pb2.RollbackAliasRequest(name=f"{team.model}/aliases/production")
    with Failing() as failed:
        await team.registry.aliases.RollbackAlias(request, **team.as_("will"))
    assert failed.code is grpc.StatusCode.PERMISSION_DENIED
    await team.registry.aliases.RollbackAlias(request, **team.as_("max"))
    assert await team.production() == 1
    newest = (await team.audit())[0]
    assert (newest.action, newest.break_glass) == ("RollbackAlias", False)


async def test_a_rollback_is_validated_only(team: Team) -> None:
    """
    `validate_only` of a rollback tells where it leads, and moves nothing.
    """
    await team.move("max", 2)
    request = aliases_pb2.RollbackAliasRequest(name=f"{team.model}/aliases/production", validate_only=True)
    found = await team.registry.aliases.RollbackAlias(request, **team.as_("max"))
    assert (found.version, found.revision) == (team.version(1), 0)
    assert await team.production() == 2


async def test_removals_are_moves(team: Team) -> None:
    """
    A protected alias is neither removed directly nor by the forced deletion of its version; a promotion may remove it.
    """
    await team.rule(required_approvals=1, filter="labels.reviewed = yes")
    with Failing() as failed:
        await team.move("max", 0)
    assert unmet(failed) == [("APPROVALS", "r")]
    for dry in (True, False):
        request = versions_pb2.DeleteVersionRequest(name=team.version(1), force=True, validate_only=dry)
        with Failing() as failed:
            await team.registry.versions.DeleteVersion(request, **team.as_("max"))
        assert unmet(failed) == [("APPROVALS", "r")]
    assert await team.production() == 1
    assert (await team.approve("mia", await team.request("will", 0))).state == STATE.STATE_DONE
    with Failing() as failed:
        await team.production()
    assert failed.reason == "ALIAS_NOT_FOUND"


async def test_a_refused_deletion_deletes_no_results(team: Team) -> None:
    """
    The results of a version that is not deleted because of a rule stay, however many they are.
    """
    results = [
        evaluations_pb2.Evaluation(version=team.version(1), dataset="d", metric="m", value=n) for n in range(1100)
    ]
    await team.registry.evaluations.RecordEvaluations(
        evaluations_pb2.RecordEvaluationsRequest(parent=f"namespaces/{team.namespace}", evaluations=results),
        **team.as_("will"),
    )
    await team.rule(required_approvals=1)
    with Failing() as failed:
        request = versions_pb2.DeleteVersionRequest(name=team.version(1), force=True)
        await team.registry.versions.DeleteVersion(request, **team.as_("max"))
    assert failed.reason == "ALIAS_PROTECTED"
    metrics = await team.registry.evaluations.ListDatasets(
        evaluations_pb2.ListDatasetsRequest(parent=f"namespaces/{team.namespace}"), **team.as_("will")
    )
    assert [each.result_count for each in metrics.datasets] == [1100]


async def test_reject(team: Team) -> None:
    """
    One rejection closes a promotion.
    """
    await team.rule(required_approvals=2)
    promotion = await team.request("will")
    await team.approve("max", promotion)
    request = promotions_pb2.RejectPromotionRequest(name=promotion.name, comment="no")
    rejected = await team.registry.promotions.RejectPromotion(request, **team.as_("mia"))
    assert (rejected.state, rejected.reviews[1].verdict) == (STATE.STATE_REJECTED, STATE.VERDICT_REJECTED)
    with Failing() as failed:
        await team.approve("moe", promotion)
    assert failed.reason == "PROMOTION_CLOSED"
    assert await team.production() == 1


async def test_cancel(team: Team) -> None:
    """
    The requester withdraws a promotion, or somebody who may move aliases; another writer does not.
    """
    await team.rule(required_approvals=1)
    for by in ("will", "max"):
        promotion = await team.request("will")
        request = promotions_pb2.CancelPromotionRequest(name=promotion.name)
        with Failing() as failed:
            await team.registry.promotions.CancelPromotion(request, **team.as_("wendy"))
        assert failed.reason == "NOT_REQUESTER"
        cancelled = await team.registry.promotions.CancelPromotion(request, **team.as_(by))
        assert cancelled.state == STATE.STATE_CANCELLED


async def test_break_glass(team: Team) -> None:
    """
    The scope `admin` passes approvals and roles, and the audit log marks it, also for somebody whom the policy alone
    lets move aliases; conditions hold for it, too.
    """
    await team.rule(required_approvals=1, filter="labels.reviewed = yes")
    for by in ("root", "max"):
        number = await team.add_version()
        move = MOVE(alias_id="production", version=team.version(number))
        request = aliases_pb2.MoveAliasesRequest(parent=team.model, moves=[move])
        caller = team.guarded.as_(by, "registry.read registry.write admin")
        with Failing() as failed:
            await team.registry.aliases.MoveAliases(request, **caller)
        assert unmet(failed) == [("FILTER", "r")]
        await team.label(number, reviewed="yes")
        await team.registry.aliases.MoveAliases(request, **caller)
        assert await team.production() == number
        newest = (await team.audit())[0]
        assert (newest.actor, newest.action, newest.break_glass) == (by, "MoveAliases", True)


@pytest.mark.parametrize("by", ["root", "wendy"])
async def test_an_approval_with_break_glass(team: Team, by: str) -> None:
    """
    The approval of a token with the scope `admin` is enough, and marked.
    """
    await team.rule(required_approvals=2)
    promotion = await team.request("will")
    caller = team.guarded.as_(by, "registry.read registry.write admin")
    request = promotions_pb2.ApprovePromotionRequest(name=promotion.name)
    done = await team.registry.promotions.ApprovePromotion(request, **caller)
    assert done.state == STATE.STATE_DONE
    assert {each.break_glass for each in await team.audit(action="ApprovePromotion")} == {True}


async def test_break_glass_is_marked_where_a_policy_would_have_refused(team: Team) -> None:
    """
    A write with the scope `admin` is marked when the policy alone would not have allowed it, and only then.
    """
    for by, marked in (("root", True), ("ann", False)):
        name = f"namespaces/{team.namespace}"
        request = namespaces_pb2.UpdateNamespaceRequest(
            namespace=namespaces_pb2.Namespace(name=name, owner=by), update_mask=FieldMask(paths=["owner"])
        )
        both = "registry.read registry.write admin"
        await team.registry.namespaces.UpdateNamespace(request, **team.guarded.as_(by, both))
        assert (await team.audit(action="UpdateNamespace"))[0].break_glass is marked


async def test_two_last_approvals(team: Team) -> None:
    """
    Of two last approvals at once one moves the alias, and the other finds the promotion closed.
    """
    await team.rule(required_approvals=1)
    for target in (2, 1, 2, 1):
        promotion = await team.request("will", target)
        found = await asyncio.gather(
            *(team.approve(by, promotion) for by in ("max", "mia", "moe")), return_exceptions=True
        )
        done = [each for each in found if isinstance(each, promotions_pb2.Promotion)]
        assert [each.state for each in done] == [STATE.STATE_DONE]
        assert await team.production() == target
    moves = await team.registry.aliases.ListAliasMoves(
        aliases_pb2.ListAliasMovesRequest(parent=f"{team.model}/aliases/production"), **team.as_("ann")
    )
    assert [each.version.rpartition("/")[2] for each in moves.moves] == ["1", "2", "1", "2", "1"]


async def test_an_approval_and_the_deletion_of_the_version(team: Team) -> None:
    """
    Of an approval and the deletion of its version at once one wins: no alias points at a deleted version.
    """
    await team.rule(required_approvals=1)
    outcomes = set()
    for _ in range(6):
        number = await team.add_version()
        promotion = await team.request("will", number)
        deletion = versions_pb2.DeleteVersionRequest(name=team.version(number))
        approved, deleted = await asyncio.gather(
            team.approve("max", promotion),
            team.registry.versions.DeleteVersion(deletion, **team.as_("mia")),
            return_exceptions=True,
        )
        assert isinstance(approved, Exception) is not isinstance(deleted, Exception)
        assert (await team.production() == number) is isinstance(deleted, Exception)
        outcomes.add(isinstance(deleted, Exception))
    with Failing() as failed:
        gone = await team.add_version()
        promotion = await team.request("will", gone)
        await team.registry.versions.DeleteVersion(
            versions_pb2.DeleteVersionRequest(name=team.version(gone)), **team.as_("mia")
        )
        await team.approve("max", promotion)
    assert failed.reason == "VERSION_DELETED"


async def test_rules_and_moves_exclude_each_other(team: Team) -> None:
    """
    A move with a higher revision than a rule obeys the rule.
    """
    for of_model in (False, True):
        for attempt in range(4):
            target = 1 + (await team.production()) % 2
            moving, ruling = team.move("max", target), team.rule(of_model=of_model, required_approvals=1)
            both = (moving, ruling) if attempt % 2 else (ruling, moving)
            found: list[Any] = list(await asyncio.gather(*both, return_exceptions=True))
            rule = next(each for each in found if isinstance(each, alias_rules_pb2.AliasRule))
            move = next(each for each in found if each is not rule)
            if isinstance(move, aliases_pb2.MoveAliasesResponse):
                assert move.aliases[0].revision < rule.revision
            else:
                assert isinstance(move, grpc.aio.AioRpcError)
            await team.registry.alias_rules.DeleteAliasRule(
                alias_rules_pb2.DeleteAliasRuleRequest(name=rule.name), **team.as_("ann")
            )


async def test_who_sets_and_reads_rules(team: Team) -> None:
    """
    Owners set rules, readers read them.
    """
    with Failing() as failed:
        await team.rule(by="max", required_approvals=1)
    assert (failed.code, failed.metadata["permission"]) == (grpc.StatusCode.PERMISSION_DENIED, "rules.write")
    rule = await team.rule(required_approvals=1)
    found = await team.registry.alias_rules.GetAliasRule(
        alias_rules_pb2.GetAliasRuleRequest(name=rule.name), **team.as_("will")
    )
    assert found == rule
    assert found.approver_role == ROLE.ROLE_MAINTAINER


async def test_etags_of_rules(team: Team) -> None:
    """
    A rule that has changed since it was read is neither overwritten nor deleted; every change is in the audit log.
    """
    first = await team.rule(required_approvals=1)
    second = await team.rule(required_approvals=2, etag=first.etag)
    with Failing() as failed:
        await team.rule(required_approvals=3, etag=first.etag)
    assert failed.reason == "ETAG_MISMATCH"
    delete = alias_rules_pb2.DeleteAliasRuleRequest(name=first.name, etag=first.etag)
    with Failing() as failed:
        await team.registry.alias_rules.DeleteAliasRule(delete, **team.as_("ann"))
    assert failed.reason == "ETAG_MISMATCH"
    delete.etag = second.etag
    await team.registry.alias_rules.DeleteAliasRule(delete, **team.as_("ann"))
    with Failing() as failed:
        await team.registry.alias_rules.GetAliasRule(
            alias_rules_pb2.GetAliasRuleRequest(name=first.name), **team.as_("ann")
        )
    assert failed.reason == "ALIAS_RULE_NOT_FOUND"
    entries = await team.audit(resource_prefix=first.name)
    assert [each.action for each in entries] == ["DeleteAliasRule", "SetAliasRule", "SetAliasRule"]
    await team.move("max", 2)


async def test_lists_of_rules(team: Team) -> None:
    """
    Rules of a namespace and of a model are listed apart, page by page.
    """
    for name in ("a", "b", "c"):
        await team.rule(name, required_approvals=1)
    await team.rule("d", of_model=True, required_approvals=1)
    for parent, names in ((f"namespaces/{team.namespace}", ["a", "b", "c"]), (team.model, ["d"])):
        found, token = [], ""
        while True:
            request = alias_rules_pb2.ListAliasRulesRequest(parent=parent, page_size=2, page_token=token)
            page = await team.registry.alias_rules.ListAliasRules(request, **team.as_("will"))
            found += [each.name for each in page.rules]
            token = page.next_page_token
            if not token:
                break
        assert found == [f"{parent}/aliasRules/{name}" for name in names]


async def test_lists_of_promotions(team: Team) -> None:
    """
    Promotions of a model and of all models are listed by state and alias, the newest first, page by page.
    """
    await team.rule(required_approvals=1)
    cancelled = await team.request("will")
    await team.registry.promotions.CancelPromotion(
        promotions_pb2.CancelPromotionRequest(name=cancelled.name), **team.as_("will")
    )
    names = [(await team.request("will", number)).name for number in (2, 0)]
    for parent in (team.model, f"namespaces/{team.namespace}/models/-"):
        found, token = [], ""
        while True:
            request = promotions_pb2.ListPromotionsRequest(
                parent=parent, state=STATE.STATE_PENDING, alias_id="production", page_size=1, page_token=token
            )
            page = await team.registry.promotions.ListPromotions(request, **team.as_("will"))
            found += [each.name for each in page.promotions]
            token = page.next_page_token
            if not token:
                break
        assert found == names[::-1]
        request = promotions_pb2.ListPromotionsRequest(parent=parent, alias_id="other")
        assert not (await team.registry.promotions.ListPromotions(request, **team.as_("will"))).promotions


async def test_the_same_promotion_twice(team: Team) -> None:
    """
    A promotion that is pending already, or that would change nothing, is not created.
    """
    await team.rule(required_approvals=1)
    await team.request("will")
    with Failing() as failed:
        await team.request("wendy")
    assert failed.reason == "PROMOTION_PENDING"
    with Failing() as failed:
        await team.request("will", 1)
    assert failed.reason == "ALIAS_UNCHANGED"


async def test_rules_and_promotions_go_with_their_parents(team: Team) -> None:
    """
    A model that is made again under the name of a purged one has neither rules nor promotions of it.
    """
    await team.rule(of_model=True, required_approvals=1)
    promotion = await team.request("will")
    await team.registry.models.DeleteModel(models_pb2.DeleteModelRequest(name=team.model), **team.as_("max"))
    call: Any
    for call, request in (
        (team.registry.promotions.GetPromotion, promotions_pb2.GetPromotionRequest(name=promotion.name)),
        (team.registry.promotions.ApprovePromotion, promotions_pb2.ApprovePromotionRequest(name=promotion.name)),
    ):
        with Failing() as failed:
            await call(request, **team.as_("max"))
        assert failed.reason == "PROMOTION_NOT_FOUND"
    await team.registry.models.PurgeModel(models_pb2.PurgeModelRequest(name=team.model), **team.as_("ann"))
    create = models_pb2.CreateModelRequest(parent=f"namespaces/{team.namespace}", model_id="m")
    await team.registry.models.CreateModel(create, **team.as_("will"))
    listed = await team.registry.alias_rules.ListAliasRules(
        alias_rules_pb2.ListAliasRulesRequest(parent=team.model), **team.as_("will")
    )
    assert not listed.rules
    with Failing() as failed:
        await team.get(promotion)
    assert failed.reason == "PROMOTION_NOT_FOUND"


async def test_a_retry_is_answered_as_before(team: Team) -> None:
    """
    The retry of an approval with its request id returns the first answer.
    """
    await team.rule(required_approvals=1)
    promotion = await team.request("will")
    done = await team.approve("max", promotion, request_id="once")
    assert await team.approve("max", promotion, request_id="once") == done


async def test_without_access_control(shared: Registry) -> None:
    """
    While access control is off, conditions hold; roles and approvals are not asked for.
    """
    parent = "namespaces/no-access"
    await shared.namespaces.CreateNamespace(namespaces_pb2.CreateNamespaceRequest(namespace_id="no-access"))
    await shared.models.CreateModel(models_pb2.CreateModelRequest(parent=parent, model_id="m"))
    model = f"{parent}/models/m"
    for labels in ({"reviewed": "yes"}, {}):
        version = versions_pb2.Version(labels=labels)
        made = await shared.versions.CreateVersion(versions_pb2.CreateVersionRequest(parent=model, version=version))
        await shared.versions.FinalizeVersion(versions_pb2.FinalizeVersionRequest(name=made.name))
    rule = alias_rules_pb2.AliasRule(
        name=f"{parent}/aliasRules/r",
        aliases=["*"],
        filter="labels.reviewed = yes",
        required_approvals=2,
        mover_role=ROLE.ROLE_OWNER,
    )
    await shared.alias_rules.SetAliasRule(alias_rules_pb2.SetAliasRuleRequest(rule=rule))
    with Failing() as failed:
        moves = [MOVE(alias_id="production", version=f"{model}/versions/2")]
        await shared.aliases.MoveAliases(aliases_pb2.MoveAliasesRequest(parent=model, moves=moves))
    assert unmet(failed) == [("FILTER", "r")]
    promotion = promotions_pb2.Promotion(alias_id="production", version=f"{model}/versions/1")
    done = await shared.promotions.CreatePromotion(
        promotions_pb2.CreatePromotionRequest(parent=model, promotion=promotion)
    )
    assert done.state == STATE.STATE_DONE


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"name": "namespaces/default"}, "rule.name"),
        ({"aliases": []}, "rule.aliases"),
        ({"aliases": ["-prod"]}, "rule.aliases[0]"),
        ({"aliases": ["a" * 256]}, "rule.aliases[0]"),
        ({"movers": ["ann"]}, "rule.movers"),
        ({"filter": "colour = red"}, "rule.filter"),
        ({"required_approvals": -1}, "rule.required_approvals"),
        ({"required_approvals": 21}, "rule.required_approvals"),
        ({"approver_role": ROLE.ROLE_READER}, "rule.approver_role"),
        ({"required_approvals": 0}, "rule"),
        ({"mover_role": 9}, "rule.mover_role"),
    ],
)
async def test_bad_rules(shared: Registry, fields: dict[str, Any], wrong: str) -> None:
    """
    An invalid rule is rejected with its field.
    """
    usual = {"name": "namespaces/default/aliasRules/r", "aliases": ["production"], "required_approvals": 1}
    rule = alias_rules_pb2.AliasRule(**{**usual, **fields})
    with Failing() as failed:
        await shared.alias_rules.SetAliasRule(alias_rules_pb2.SetAliasRuleRequest(rule=rule))
    assert (failed.code, list(failed.fields)) == (grpc.StatusCode.INVALID_ARGUMENT, [wrong])


@pytest.mark.parametrize(
    ("pattern", "alias", "expected"),
    [
        ("production", "production", True),
        ("production", "production-eu", False),
        ("prod-*", "prod-eu", True),
        ("prod-*", "prod", False),
        ("*", "anything", True),
        ("*-eu", "prod-eu", True),
        ("a*b*c", "a-b-c", True),
        ("a*b*c", "a-c-b", False),
        ("ab*ba", "aba", False),
        ("*a*a*a*a*a*a*a*a*a*a*a*a*a*a*b", "a" * 60, False),
    ],
)
def test_patterns(pattern: str, alias: str, expected: bool) -> None:
    """
    A star stands for any characters, also for none; whatever the pattern, it takes no time.
    """
    assert AliasRuleDraft((pattern,)).matches(alias) is expected


def statements() -> Iterator[tuple[Path, str]]:
    """
    Every text in the registry's modules, with its file.
    """
    root = Path(services.registry.__path__[0])
    for path in root.rglob("*.py"):
        if "tests" not in path.parts:
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield path, node.value


def test_one_place_writes_aliases() -> None:
    """
    The only text that writes aliases is in the class that asks the rules; what deletes their history is for models that
    are purged.
    """
    writes = re.compile(
        r"(INSERT\s+INTO|UPDATE|DELETE\s+FROM|MERGE\s+INTO|COPY|TRUNCATE)\s+(ONLY\s+)?aliases\b", re.IGNORECASE
    )
    found = {path.name for path, text in statements() if writes.search(text)}
    assert found == {"alias_moves.py"}
    names = {"_MOVING"}
    source = (Path(services.registry.__path__[0]) / "store" / "alias_moves.py").read_text()
    users = [
        node.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ClassDef)
        and any(isinstance(each, ast.Name) and each.id in names for each in ast.walk(node))
    ]
    assert users == ["AliasWrite"]
    assert source.count("_MOVING") == 2
