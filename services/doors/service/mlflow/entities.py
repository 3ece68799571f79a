"""
Models and versions in MLflow's JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from google.protobuf.timestamp_pb2 import Timestamp

from modelyard.registry.v1 import models_pb2, versions_pb2
from services.doors.model.mlflow import stages
from services.doors.model.mlflow.names import name_of
from services.doors.model.mlflow.tags import tags_of

_STATUS: Final = {
    versions_pb2.Version.STATE_PENDING: "PENDING_REGISTRATION",
    versions_pb2.Version.STATE_READY: "READY",
    versions_pb2.Version.STATE_FAILED: "FAILED_REGISTRATION",
}


def registered_model(model: models_pb2.Model) -> dict[str, Any]:
    """
    A model of the registry, in full view.
    """
    name = model_name(model.name, model.display_name)
    active = model.activity_time if model.HasField("activity_time") else model.update_time
    aliases: dict[str, list[str]] = {}
    for alias in model.aliases:
        aliases.setdefault(alias.version, []).append(alias.name.rpartition("/")[2])
    return {
        "name": name,
        "creation_timestamp": _milliseconds(model.create_time),
        "last_updated_timestamp": _milliseconds(active),
        "description": model.description,
        "user_id": model.actor,
        "latest_versions": [model_version(each, name, aliases.get(each.name, ())) for each in model.newest],
        "tags": tags_of(model.labels, model.annotations),
        "aliases": [
            {"alias": alias.name.rpartition("/")[2], "version": alias.version.rpartition("/")[2]}
            for alias in model.aliases
        ],
    }


def model_version(version: versions_pb2.Version, name: str, aliases: Sequence[str] = ()) -> dict[str, Any]:
    """
    A version of the registry.

    Args:
        version: with or without its artifacts.
        name: MLflow's, of its model.
        aliases: ids of those that point at it.
    """
    found = {
        "name": name,
        "version": str(version.number),
        "creation_timestamp": _milliseconds(version.create_time),
        "last_updated_timestamp": _milliseconds(version.update_time),
        "user_id": version.actor,
        "current_stage": stages.shown(version.stage),
        "description": version.description,
        "source": version.source,
        "status": _STATUS.get(version.state, "FAILED_REGISTRATION"),
        "run_link": version.run_link,
        "tags": tags_of(version.labels, version.annotations),
        "aliases": list(aliases),
    }
    optional: Mapping[str, str] = {
        "run_id": version.lineage.run,
        "status_message": version.failure,
        "model_id": version.source_model_id,
    }
    return {**found, **{key: value for key, value in optional.items() if value}}


def model_name(resource: str, display_name: str) -> str:
    """
    MLflow's name of a model.

    Args:
        resource: its name in the registry.
        display_name: its display name.
    """
    return name_of(resource.rpartition("/")[2], display_name)


def _milliseconds(time: Timestamp) -> int:
    return time.seconds * 1000 + time.nanos // 1_000_000
