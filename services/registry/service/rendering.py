"""
Domain values to messages.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import cast

from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from modelyard.registry.v1 import (
    alias_rules_pb2,
    aliases_pb2,
    audit_pb2,
    cards_pb2,
    deployments_pb2,
    evaluations_pb2,
    models_pb2,
    namespaces_pb2,
    policies_pb2,
    promotions_pb2,
    tokens_pb2,
    versions_pb2,
)
from services.chassis.access.api_tokens import LiveToken
from services.chassis.access.policies import Bindings
from services.chassis.access.roles import Role
from services.ledger.model.calls import etag
from services.ledger.model.changes import Image
from services.registry.model.alias_rules import AliasRule
from services.registry.model.aliases import Alias, AliasPeriod
from services.registry.model.api_tokens import ApiToken
from services.registry.model.audit import AuditEntry
from services.registry.model.cards import Card, CardImported
from services.registry.model.deployments import Deployment
from services.registry.model.evaluation_metrics import Dataset, Direction, Metric
from services.registry.model.evaluations import Evaluation, LeaderboardEntry
from services.registry.model.models import Model
from services.registry.model.names import AliasName, NamespaceName, VersionName
from services.registry.model.namespaces import Namespace
from services.registry.model.oci import MANIFEST_TYPE, OciBlob, OciManifest
from services.registry.model.policies import Policy, PolicyEvent, PolicyName
from services.registry.model.promotions import Promotion
from services.registry.model.versions import AssetMatch, Version, VersionState


# protobuf takes an aware datetime for a Timestamp (to the microsecond, as PostgreSQL keeps it); its stubs do not know.
def _time(moment: datetime | None) -> Timestamp | None:
    return cast("Timestamp | None", moment)


# In one message: at most 1,000 members of 300 characters each.
_POLICIES = 20

_STATES = {
    VersionState.PENDING: versions_pb2.Version.STATE_PENDING,
    VersionState.READY: versions_pb2.Version.STATE_READY,
    VersionState.FAILED: versions_pb2.Version.STATE_FAILED,
    VersionState.DELETED: versions_pb2.Version.STATE_DELETED,
}


def from_namespace(namespace: Namespace) -> namespaces_pb2.Namespace:
    """
    A namespace.
    """
    draft = namespace.draft
    return namespaces_pb2.Namespace(
        name=str(namespace.name),
        display_name=draft.display_name,
        description=draft.description,
        owner=draft.owner,
        labels=draft.labels,
        quota=namespaces_pb2.Namespace.Quota(max_models=draft.max_models, max_asset_bytes=draft.max_asset_bytes),
        create_time=_time(namespace.create_time),
        update_time=_time(namespace.update_time),
        revision=namespace.revision,
        etag=etag(namespace.revision),
    )


def from_policy(policy: Policy) -> policies_pb2.Policy:
    """
    A policy.
    """
    return policies_pb2.Policy(
        name=str(policy.name),
        bindings=[
            policies_pb2.Policy.Binding(role=policies_pb2.Policy.Role.Value(f"ROLE_{role.name}"), members=members)
            for role, members in sorted(policy.draft.members.items())
        ],
        private=policy.draft.private,
        create_time=_time(policy.create_time),
        update_time=_time(policy.update_time),
        revision=policy.revision,
        etag=policy.etag,
    )


def from_policy_event(event: PolicyEvent) -> Iterator[policies_pb2.WatchPoliciesResponse]:
    """
    What becomes known of the policies, in messages of a bounded size.
    """
    kept = [(key, bindings) for key, bindings in event.changed.items() if bindings is not None]
    deleted = [str(PolicyName(key)) for key, bindings in event.changed.items() if bindings is None]
    for namespace, live in event.tokens.items():
        # In a message of its own: at most 1,000 tokens and those that expired today.
        yield policies_pb2.WatchPoliciesResponse(tokens=[_from_live_tokens(namespace, live)])
    for start in range(0, len(kept), _POLICIES):
        part = [_from_bindings(key, bindings) for key, bindings in kept[start : start + _POLICIES]]
        yield policies_pb2.WatchPoliciesResponse(policies=part)
    last = policies_pb2.WatchPoliciesResponse(deleted=deleted, complete=event.complete, applied_revision=event.applied)
    if event.current is not None:
        last.current_until.FromNanoseconds(int(event.current * 1e9))
    yield last


def _from_live_tokens(namespace: str, live: Sequence[LiveToken]) -> policies_pb2.WatchPoliciesResponse.TokenSet:
    tokens = [
        policies_pb2.WatchPoliciesResponse.Token(
            token_id=each.token_id,
            hash=each.token_hash,
            role=policies_pb2.Policy.Role.Value(f"ROLE_{each.role.name}"),
            scopes=sorted(each.scopes),
            expire_time=_time(datetime.fromtimestamp(each.expires, UTC)),
        )
        for each in live
    ]
    return policies_pb2.WatchPoliciesResponse.TokenSet(parent=str(NamespaceName(namespace)), tokens=tokens)


def from_api_token(token: ApiToken, now: datetime) -> tokens_pb2.ApiToken:
    """
    An API token, without its secret.

    Args:
        now: the current time.
    """
    draft = token.draft
    return tokens_pb2.ApiToken(
        name=str(token.name),
        display_name=draft.display_name,
        role=policies_pb2.Policy.Role.Value(f"ROLE_{draft.role.name}"),
        scopes=sorted(draft.scopes),
        expire_time=_time(draft.expires),
        state=tokens_pb2.ApiToken.State.Value(f"STATE_{token.state(now).value}"),
        creator=token.creator,
        create_time=_time(token.created),
        revoke_time=_time(token.revoked),
        last_use_time=_time(token.used),
        revision=token.revision,
    )


def _from_bindings(key: str, bindings: Bindings) -> policies_pb2.Policy:
    members: dict[Role, list[str]] = {}
    for member, role in bindings.roles.items():
        members.setdefault(role, []).append(member)
    return policies_pb2.Policy(
        name=str(PolicyName(key)),
        bindings=[
            policies_pb2.Policy.Binding(role=policies_pb2.Policy.Role.Value(f"ROLE_{role.name}"), members=found)
            for role, found in members.items()
        ],
        private=bindings.private,
    )


def from_alias_rule(rule: AliasRule) -> alias_rules_pb2.AliasRule:
    """
    A rule of aliases.
    """
    draft = rule.draft
    return alias_rules_pb2.AliasRule(
        name=str(rule.name),
        aliases=draft.aliases,
        mover_role=policies_pb2.Policy.Role.ValueType(draft.mover_role),
        movers=draft.movers,
        filter=draft.filter,
        required_approvals=draft.required_approvals,
        approver_role=policies_pb2.Policy.Role.ValueType(draft.approver_role),
        create_time=_time(rule.create_time),
        update_time=_time(rule.update_time),
        revision=rule.revision,
        etag=etag(rule.revision),
    )


def from_promotion(promotion: Promotion) -> promotions_pb2.Promotion:
    """
    A promotion.
    """
    pb = promotions_pb2.Promotion
    before = promotion.from_version
    return pb(
        name=str(promotion.name),
        alias_id=promotion.alias,
        version=_text(promotion.version_name),
        from_version=_text(replace(promotion, version=before).version_name),
        comment=promotion.comment,
        state=pb.State.Value(f"STATE_{promotion.state}"),
        requester=promotion.requester,
        reviews=[
            pb.Review(
                subject=each.subject,
                verdict=pb.VERDICT_APPROVED if each.approved else pb.VERDICT_REJECTED,
                comment=each.comment,
                review_time=_time(each.time),
            )
            for each in promotion.reviews
        ],
        missing=[
            pb.Requirement(type=each.type, rule=each.subject, description=each.description)
            for each in promotion.missing
        ],
        move_revision=promotion.move_revision,
        create_time=_time(promotion.create_time),
        update_time=_time(promotion.update_time),
        revision=promotion.revision,
        etag=etag(promotion.revision),
    )


def _text(name: VersionName | None) -> str:
    return "" if name is None else str(name)


def from_model(model: Model) -> models_pb2.Model:
    """
    A model.
    """
    draft = model.draft
    return models_pb2.Model(
        name=str(model.name),
        display_name=draft.display_name,
        description=draft.description,
        owner=draft.owner,
        task=draft.task,
        framework=draft.framework,
        license=draft.license,
        labels=draft.labels,
        annotations=draft.annotations,
        parameter_count=draft.parameter_count,
        create_time=_time(model.create_time),
        update_time=_time(model.update_time),
        delete_time=_time(model.delete_time),
        purge_time=_time(model.purge_time),
        latest_version=model.latest_version,
        revision=model.revision,
        etag=etag(model.revision),
        actor=model.actor,
        activity_time=_time(model.activity_time),
        aliases=map(from_alias, model.aliases),
        newest=map(from_version, model.newest),
    )


def from_version(version: Version) -> versions_pb2.Version:
    """
    A version.
    """
    draft = version.draft
    lineage = draft.lineage
    return versions_pb2.Version(
        name=str(version.name),
        number=version.name.number,
        state=_STATES[version.state],
        failure=version.failure,
        description=draft.description,
        artifacts=[
            versions_pb2.Artifact(
                path=each.path, sha256=each.sha256, size_bytes=each.size_bytes, media_type=each.media_type
            )
            for each in draft.artifacts
        ],
        lineage=versions_pb2.Lineage(
            parent_version=lineage.parent_version,
            training_data=lineage.training_data,
            run=lineage.run,
            git_commit=lineage.git_commit,
        ),
        stage=draft.stage,
        labels=draft.labels,
        size_bytes=version.size_bytes,
        create_time=_time(version.create_time),
        update_time=_time(version.update_time),
        delete_time=_time(version.delete_time),
        copied_from=version.copied_from,
        oci_digest=version.oci_digest or "",
        revision=version.revision,
        etag=etag(version.revision),
        annotations=draft.annotations,
        source=draft.source,
        run_link=draft.run_link,
        source_model_id=draft.source_model_id,
        actor=version.actor,
    )


def from_match(match: AssetMatch) -> versions_pb2.FindVersionsResponse.Match:
    """
    A version that contains an asset.
    """
    return versions_pb2.FindVersionsResponse.Match(
        version=str(match.name), paths=match.paths, create_time=_time(match.create_time)
    )


def from_alias(alias: Alias) -> aliases_pb2.Alias:
    """
    An alias.
    """
    return aliases_pb2.Alias(
        name=str(alias.name),
        version=str(VersionName(alias.name.namespace, alias.name.model, alias.version)),
        move_time=_time(alias.move_time),
        actor=alias.actor,
        revision=alias.revision,
    )


def from_alias_period(period: AliasPeriod, name: AliasName) -> aliases_pb2.AliasMove:
    """
    One period of the history of the alias *name*.
    """
    version = VersionName(name.namespace, name.model, period.version) if period.version is not None else ""
    return aliases_pb2.AliasMove(
        version=str(version),
        start_time=_time(period.start_time),
        end_time=_time(period.end_time),
        actor=period.actor,
        revision=period.revision,
    )


def from_oci_manifest(manifest: OciManifest) -> versions_pb2.OciManifest:
    """
    The manifest of a version.
    """
    return versions_pb2.OciManifest(
        version=str(manifest.version), digest=manifest.digest, media_type=MANIFEST_TYPE, content=manifest.content
    )


def from_oci_blob(blob: OciBlob) -> versions_pb2.OciBlob:
    """
    A blob of a model.
    """
    return versions_pb2.OciBlob(
        digest=blob.digest, size_bytes=blob.size_bytes, media_type=blob.media_type, content=blob.content
    )


def from_evaluation(evaluation: Evaluation) -> evaluations_pb2.Evaluation:
    """
    A result.
    """
    draft = evaluation.draft
    return evaluations_pb2.Evaluation(
        name=evaluation.name,
        version=str(draft.version),
        dataset=draft.dataset,
        metric=draft.metric,
        value=draft.value,
        parameters=draft.parameters,
        evaluate_time=_time(draft.evaluate_time),
        create_time=_time(evaluation.create_time),
        revision=evaluation.revision,
    )


def from_leaderboard_entry(entry: LeaderboardEntry) -> evaluations_pb2.QueryLeaderboardResponse.Entry:
    """
    A place on a leaderboard.
    """
    return evaluations_pb2.QueryLeaderboardResponse.Entry(
        model=str(entry.model), evaluation=from_evaluation(entry.best), parameter_count=entry.parameter_count
    )


def from_metric(metric: Metric) -> evaluations_pb2.Metric:
    """
    A metric.
    """
    return evaluations_pb2.Metric(
        metric=metric.id,
        direction=from_direction(metric.direction),
        dataset_count=metric.datasets,
        result_count=metric.results,
        update_time=_time(metric.update_time),
        revision=metric.revision,
    )


def from_direction(direction: Direction | None) -> evaluations_pb2.Metric.Direction.ValueType:
    """
    Which values are better.
    """
    return evaluations_pb2.Metric.Direction.Value(f"DIRECTION_{direction or 'UNSPECIFIED'}")


def from_dataset(dataset: Dataset) -> evaluations_pb2.Dataset:
    """
    A data set.
    """
    return evaluations_pb2.Dataset(dataset=dataset.id, metric_count=dataset.metrics, result_count=dataset.results)


def from_audit_entry(entry: AuditEntry) -> audit_pb2.AuditEntry:
    """
    A line of the audit.
    """
    return audit_pb2.AuditEntry(
        revision=entry.revision,
        time=_time(entry.time),
        actor=entry.actor,
        action=entry.action,
        resource=entry.resource,
        request_id=entry.request_id,
        before=_struct(entry.before),
        after=_struct(entry.after),
        shortened=entry.shortened,
        break_glass=entry.break_glass,
    )


def _struct(image: Image | None) -> Struct | None:
    return None if image is None else json_format.ParseDict(dict(image), Struct())


def from_card(card: Card) -> cards_pb2.Card:
    """
    A number of a card.
    """
    draft = card.draft
    return cards_pb2.Card(
        name=str(card.name),
        number=card.number,
        intended_use=draft.intended_use,
        training_data=draft.training_data,
        evaluation_data=draft.evaluation_data,
        metrics=draft.metrics,
        limitations=draft.limitations,
        ethical_considerations=draft.ethical_considerations,
        license=draft.license,
        markdown=draft.markdown,
        extra=json_format.ParseDict(draft.extra, Struct()) if draft.extra else None,
        update_time=_time(card.update_time),
        actor=card.actor,
        revision=card.revision,
        etag=etag(card.revision),
        imported=_imported(card.imported),
    )


def _imported(imported: CardImported | None) -> cards_pb2.Card.Imported | None:
    if imported is None:
        return None
    return cards_pb2.Card.Imported(
        fields=imported.fields,
        version=str(imported.version or ""),
        recorded_count=imported.recorded,
        replaced_count=imported.replaced,
        warnings=imported.warnings,
    )


def from_deployment(deployment: Deployment) -> deployments_pb2.Deployment:
    """
    A deployment.
    """
    draft = deployment.draft
    return deployments_pb2.Deployment(
        name=str(deployment.name),
        version=str(draft.version),
        environment=draft.environment,
        state=deployments_pb2.Deployment.State.Value(f"STATE_{deployment.state}"),
        status_message=draft.status_message,
        endpoint=draft.endpoint,
        replicas=draft.replicas,
        labels=draft.labels,
        create_time=_time(deployment.create_time),
        update_time=_time(deployment.update_time),
        revision=deployment.revision,
        etag=etag(deployment.revision),
    )
