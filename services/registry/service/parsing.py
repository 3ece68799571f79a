"""
Messages to domain values. Validation is the model's; here only the representation changes.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from google.protobuf.struct_pb2 import Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

from modelyard.registry.v1 import cards_pb2, deployments_pb2, evaluations_pb2, models_pb2, namespaces_pb2, versions_pb2
from services.chassis.checks import Checks
from services.registry.model.cards import CardDraft
from services.registry.model.deployments import DeploymentDraft
from services.registry.model.evaluation_metrics import measure_id
from services.registry.model.evaluations import EvaluationDraft
from services.registry.model.models import ModelDraft
from services.registry.model.names import VersionName
from services.registry.model.namespaces import NamespaceDraft
from services.registry.model.versions import Artifact, Lineage, VersionDraft


def to_namespace_draft(namespace: namespaces_pb2.Namespace) -> NamespaceDraft:
    """
    Parse a namespace.
    """
    return NamespaceDraft(
        namespace.display_name,
        namespace.description,
        namespace.owner,
        dict(namespace.labels),
        namespace.quota.max_models,
        namespace.quota.max_asset_bytes,
    )


def to_model_draft(model: models_pb2.Model) -> ModelDraft:
    """
    Parse a model.
    """
    return ModelDraft(
        model.display_name,
        model.description,
        model.owner,
        model.task,
        model.framework,
        model.license,
        dict(model.labels),
        dict(model.annotations),
        model.parameter_count,
    )


def to_version_draft(version: versions_pb2.Version) -> VersionDraft:
    """
    Parse a version.
    """
    lineage = version.lineage
    return VersionDraft(
        version.description,
        tuple(Artifact(each.path, each.sha256, each.size_bytes, each.media_type) for each in version.artifacts),
        Lineage(lineage.parent_version, tuple(lineage.training_data), lineage.run, lineage.git_commit),
        version.stage,
        dict(version.labels),
        dict(version.annotations),
        version.source,
        version.run_link,
        version.source_model_id,
    )


def to_card_draft(card: cards_pb2.Card) -> CardDraft:
    """
    Parse a card.
    """
    return CardDraft(
        card.intended_use,
        card.training_data,
        card.evaluation_data,
        card.metrics,
        card.limitations,
        card.ethical_considerations,
        card.license,
        card.markdown,
        to_dict(card.extra),
    )


def to_dict(struct: Struct) -> dict[str, Any]:
    """
    What is in *struct*. Not by json_format, which raises at NaN and the infinities: those are the client's fault, and
    the model says so.
    """
    return {key: _plain(value) for key, value in struct.fields.items()}


def _plain(value: Value) -> Any:
    match value.WhichOneof("kind"):
        case "struct_value":
            return to_dict(value.struct_value)
        case "list_value":
            return [_plain(each) for each in value.list_value.values]
        case "number_value":
            number = value.number_value
            # A Struct has doubles only: 5 comes as 5.0, and would go into the front matter as that.
            return int(number) if number.is_integer() and abs(number) <= 2**53 else number
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case _:
            return None


def to_deployment_draft(checks: Checks, at: str, deployment: deployments_pb2.Deployment) -> DeploymentDraft:
    """
    Parse a deployment; *at* is its path in the request.
    """
    return DeploymentDraft(
        checks.name(VersionName, f"{at}.version", deployment.version),
        deployment.environment,
        deployment.status_message,
        deployment.endpoint,
        deployment.replicas,
        dict(deployment.labels),
    )


def to_evaluation_draft(
    checks: Checks, at: str, evaluation: evaluations_pb2.Evaluation, version: VersionName
) -> EvaluationDraft:
    """
    Parse a result; *at* is its path in the request.
    """
    return EvaluationDraft(
        version,
        # An invalid id is passed on unchanged: the draft's validation reports it.
        measure_id(evaluation.dataset) or evaluation.dataset,
        measure_id(evaluation.metric) or evaluation.metric,
        evaluation.value,
        dict(evaluation.parameters),
        to_time(checks, f"{at}.evaluate_time", evaluation.evaluate_time)
        if evaluation.HasField("evaluate_time")
        else None,
    )


def to_time(checks: Checks, field: str, timestamp: Timestamp) -> datetime:
    """
    The moment in a Timestamp.
    """
    return checks.time(field, timestamp.seconds, timestamp.nanos)
