"""
Conversion between rows and domain values.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from services.ledger.store.servers import Row
from services.registry.model.aliases import Alias, AliasPeriod
from services.registry.model.cards import Card, CardDraft
from services.registry.model.deployments import Deployment, DeploymentDraft, DeploymentState
from services.registry.model.evaluations import Evaluation, EvaluationDraft
from services.registry.model.models import Model, ModelDraft
from services.registry.model.names import AliasName, CardName, DeploymentName, ModelName, NamespaceName, VersionName
from services.registry.model.namespaces import Namespace, NamespaceDraft
from services.registry.model.versions import Artifact, Lineage, Version, VersionDraft, VersionState

NAMESPACE = """namespace_id, display_name, description, owner, labels, max_models, max_asset_bytes, create_time,
 update_time, revision"""

MODEL = """models.namespace_id, models.model_id, models.display_name, models.description, models.owner, models.task,
 models.framework, models.license, models.labels, models.annotations, models.parameter_count,
 coalesce(models.newest_version, models.latest_version) AS latest_version, models.create_time, models.update_time,
 models.delete_time, models.purge_time, models.revision, models.creator,
 greatest(models.update_time, models.activity_time) AS activity_time"""

_VERSION = """versions.number, versions.state, versions.failure, versions.description, {} AS artifacts,
 versions.parent_version, versions.training_data, versions.run, versions.git_commit, versions.stage, versions.labels,
 versions.annotations, versions.source, versions.run_link, versions.source_model_id, versions.create_time,
 versions.update_time, versions.delete_time, versions.copied_from, versions.revision, versions.creator,
 versions.size_bytes, versions.oci_digest"""
VERSION = _VERSION.format("versions.artifacts")
#: Without the artifacts, of which there may be a megabyte, and about how many bytes the message has then.
BRIEF_VERSION = _VERSION.format("'[]'::jsonb")
BRIEF_OCTETS = """1024 + octet_length(versions.description) + octet_length(versions.labels::text)
 + octet_length(versions.annotations::text) + octet_length(versions.source) + octet_length(versions.run_link)
 + octet_length(versions.training_data::text)"""

EVALUATION = """evaluations.id, evaluations.version, evaluations.dataset, evaluations.metric, evaluations.value,
 evaluations.parameters, evaluations.evaluate_time, evaluations.create_time, evaluations.revision"""


DEPLOYMENT = """deployments.namespace_id, deployments.deployment_id, deployments.model_id, deployments.version,
 deployments.environment, deployments.state, deployments.status_message, deployments.endpoint, deployments.replicas,
 deployments.labels, deployments.create_time, deployments.update_time, deployments.revision"""


CARD = "cards.number, cards.sections, cards.update_time, cards.actor, cards.revision"


def packed(value: Any) -> str:
    """
    A value as JSON text, for a column or a parameter of type jsonb.
    """
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def unpacked(text: str) -> dict[str, str]:
    """
    The map in a jsonb column; most are empty.
    """
    return {} if text == "{}" else json.loads(text)


def octets_of(*values: Any) -> int:
    """
    About how many bytes a message with these texts and maps has.
    """
    return 96 + sum(len(value.encode()) if isinstance(value, str) else len(packed(value).encode()) for value in values)


def to_namespace(row: Row) -> Namespace:
    """
    A row with the columns NAMESPACE.
    """
    draft = NamespaceDraft(
        row["display_name"],
        row["description"],
        row["owner"],
        unpacked(row["labels"]),
        row["max_models"],
        row["max_asset_bytes"],
    )
    name = NamespaceName(row["namespace_id"])
    return Namespace(name, draft, row["create_time"], row["update_time"], row["revision"])


def to_model(row: Row) -> Model:
    """
    A row with the columns MODEL.
    """
    draft = ModelDraft(
        row["display_name"],
        row["description"],
        row["owner"],
        row["task"],
        row["framework"],
        row["license"],
        unpacked(row["labels"]),
        unpacked(row["annotations"]),
        row["parameter_count"],
    )
    return Model(
        ModelName(row["namespace_id"], row["model_id"]),
        draft,
        row["create_time"],
        row["update_time"],
        row["delete_time"],
        row["purge_time"],
        row["latest_version"],
        row["revision"],
        row["creator"],
        row["activity_time"],
    )


def to_version(row: Row, model: ModelName) -> Version:
    """
    A row with the columns VERSION. A deleted version is stored as FAILED (see store/version_deletion.py).
    """
    deleted = row["delete_time"] is not None
    draft = VersionDraft(
        row["description"],
        tuple(Artifact(*artifact) for artifact in json.loads(row["artifacts"])),
        Lineage(row["parent_version"], tuple(row["training_data"]), row["run"], row["git_commit"]),
        row["stage"],
        unpacked(row["labels"]),
        unpacked(row["annotations"]),
        row["source"],
        row["run_link"],
        row["source_model_id"],
    )
    return Version(
        VersionName(model.namespace, model.model, row["number"]),
        VersionState.DELETED if deleted else VersionState(row["state"]),
        "" if deleted else row["failure"],
        draft,
        row["create_time"],
        row["update_time"],
        row["delete_time"],
        row["copied_from"],
        row["revision"],
        row["creator"],
        row["size_bytes"],
        row["oci_digest"],
    )


def packed_artifacts(draft: VersionDraft) -> str:
    """
    The artifacts of a version as they are stored: a list of lists, because a version may have 10,000 of them.
    """
    return packed([[each.path, each.sha256, each.size_bytes, each.media_type] for each in draft.artifacts])


def version_octets(name: str, draft: VersionDraft, artifacts: str) -> int:
    """
    About how many bytes the message of a version has.

    Args:
        artifacts: as they are stored.
    """
    texts = (draft.description, draft.source, draft.run_link, draft.source_model_id)
    return octets_of(name, *texts, artifacts, draft.labels, draft.annotations, asdict(draft.lineage))


def to_alias(row: Row, name: AliasName) -> Alias:
    """
    A row with version, start_time, actor, revision.
    """
    return Alias(name, row["version"], row["start_time"], row["actor"], row["revision"])


def to_alias_period(row: Row) -> AliasPeriod:
    """
    A row with version, start_time, end_time, actor, revision.
    """
    return AliasPeriod(row["version"], row["start_time"], row["end_time"], row["actor"], row["revision"])


def to_evaluation(row: Row, model: ModelName) -> Evaluation:
    """
    A row with the columns EVALUATION.
    """
    draft = EvaluationDraft(
        VersionName(model.namespace, model.model, row["version"]),
        row["dataset"],
        row["metric"],
        row["value"],
        unpacked(row["parameters"]),
        row["evaluate_time"],
    )
    return Evaluation(row["id"], draft, row["create_time"], row["revision"])


def to_deployment(row: Row) -> Deployment:
    """
    A row with the columns DEPLOYMENT.
    """
    draft = DeploymentDraft(
        VersionName(row["namespace_id"], row["model_id"], row["version"]),
        row["environment"],
        row["status_message"],
        row["endpoint"],
        row["replicas"],
        unpacked(row["labels"]),
    )
    return Deployment(
        DeploymentName(row["namespace_id"], row["deployment_id"]),
        draft,
        DeploymentState(row["state"]),
        row["create_time"],
        row["update_time"],
        row["revision"],
    )


def to_card(row: Row, name: CardName) -> Card:
    """
    A row with the columns CARD, markdown, extra and front.
    """
    draft = CardDraft(
        **unpacked(row["sections"]), markdown=row["markdown"], extra=json.loads(row["extra"]), front=row["front"]
    )
    return Card(name, row["number"], draft, row["update_time"], row["actor"], row["revision"])
