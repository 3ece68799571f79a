"""
A backup is restored into a second instance of everything, which has the caches of the first.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import grpc
import pytest
from botocore.config import Config
from google.protobuf import field_mask_pb2

import modelyard
from deploy.checks.suite import Suite
from deploy.tests.outside.suite import Outside
from embedded.postgres import ASSETS_DATABASE, DATABASE
from embedded.s3 import BUCKET, REGION, S3
from embedded.testing import scratch
from examples import weights
from examples.demo import Demo
from modelyard.changes.v1 import changes_pb2
from modelyard.registry.v1 import aliases_pb2, audit_pb2, models_pb2, versions_pb2
from services.ledger.migrate import AHEAD

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

# Two of everything, and all that they need, start beside other tests.
pytestmark = [pytest.mark.own_suite, pytest.mark.drill, pytest.mark.timeout(400)]
DEPLOY = Path(__file__).resolve().parents[2]
PARENT = "namespaces/default"
DEMO = f"{PARENT}/models/silero-vad"
LOST = f"{PARENT}/models/made-after-the-backup"
SETTINGS = {"MODELYARD_DRAIN_DELAY_SECONDS": "0", "--drain-seconds": "1"}
_HEADERS = ("ContentType", "CacheControl", "ContentEncoding", "Metadata")
#: What `--restored` changes, and what goes on by itself.
_MOVED = {"epoch", "revision", "changes", "schema_migrations"}


@dataclass
class Pair:
    """
    The suite that was lost, and the one that was restored.

    Args:
        before: a digest of each table, when the backup was made.
        revision: the newest that was ever given.
    """

    first: Outside
    second: Outside
    before: dict[str, str]
    revision: int


@pytest.fixture(scope="module")
def pair(overlay: Suite) -> Iterator[Pair]:
    """
    The demo's data are backed up; then more is written, and read into the caches; then all services of the first suite
    end for good, and a second one is restored, with the same Valkey.
    """
    with scratch() as one, scratch() as two:
        # `make drill-deploy` runs the overlay's two instances of everything: backup and restore do not depend on it.
        replicas = 2 if "MODELYARD_DRILL_DEPLOY_SECONDS" in os.environ else 1
        first = Outside(overlay, one, SETTINGS, replicas=replicas)
        second = Outside(overlay, two, SETTINGS, valkey=first.valkey, replicas=replicas)
        try:
            first.start()
            with _client(first) as yard:
                _fill(yard, one)
                _run(first, "backup.sh", one / "backup")
                before = _tables(first)
                bucket = _objects(first.s3)
                revision = _write_what_is_lost(yard)
            for group in first.instances.values():
                for instance in group:
                    first.end(instance.name)
            second.start(lambda: _restore(second, one / "backup", bucket))
            yield Pair(first, second, before, revision)
        finally:
            second.stop()
            first.stop()


@pytest.fixture
def yard(pair: Pair) -> Iterator[modelyard.Client]:
    """
    A client of the second.
    """
    with _client(pair.second) as client:
        yield client


def test_every_row_is_there(pair: Pair) -> None:
    """
    Every table of both databases has the rows of the backup, but those that count what is given next; and the epoch is
    another one.
    """
    after = _tables(pair.second)
    assert set(after) == set(pair.before)
    different = {name for name in after if after[name] != pair.before[name]}
    assert {name.partition(".")[2] for name in different} <= _MOVED
    assert any(name.endswith(".epoch") for name in different)


def test_clients_see_the_same(pair: Pair, yard: modelyard.Client, tmp_path: Path) -> None:
    """
    Models, versions, aliases with their history, the audit, and bytes with their digest, all of it by the API.
    """
    names = [model.name for model in _models(yard)]
    assert len(names) == 1557
    versions = yard.versions.ListVersions(versions_pb2.ListVersionsRequest(parent=DEMO)).versions
    assert [version.state for version in versions] == [versions_pb2.Version.STATE_READY]
    moves = yard.aliases.ListAliasMoves(aliases_pb2.ListAliasMovesRequest(parent=f"{DEMO}/aliases/production"))
    assert [move.version for move in moves.moves] == [versions[0].name]
    audit = yard.audit.ListAuditEntries(audit_pb2.ListAuditEntriesRequest(resource_prefix=DEMO))
    assert {"CreateModel", "UpdateModel"} <= {entry.action for entry in audit.entries}
    for artifact in versions[0].artifacts:
        # The client compares the digest.
        yard.download_file(f"assets/{artifact.sha256}", tmp_path / artifact.path)


def test_caches_forget_what_was_lost(pair: Pair, yard: modelyard.Client) -> None:
    """
    What was written after the backup is in the Valkey that both had, and is not served by the second.
    """
    with pytest.raises(grpc.RpcError) as caught:
        yard.models.GetModel(models_pb2.GetModelRequest(name=LOST))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    for _ in range(3):
        assert yard.models.GetModel(models_pb2.GetModelRequest(name=DEMO)).description != "lost"


def test_revisions_are_not_given_twice(pair: Pair, yard: modelyard.Client) -> None:
    """
    The next write has a revision that nobody can have seen; a watcher who has seen lost ones is told to begin anew.
    """
    made = yard.models.CreateModel(models_pb2.CreateModelRequest(parent=PARENT, model_id="made-after-the-restore"))
    assert made.revision > AHEAD > pair.revision
    request = changes_pb2.WatchChangesRequest(start_revision=pair.revision + 1)
    assert next(iter(yard.changes.WatchChanges(request, timeout=30))).HasField("discontinuity")


def test_a_database_with_anything_in_it_is_refused(pair: Pair, tmp_path: Path) -> None:
    """
    restore.sh touches only empty databases, and backup.sh only new folders.
    """
    backup = tmp_path / "backup"
    _run(pair.second, "backup.sh", backup)
    assert "restore into an empty one" in _run(pair.second, "restore.sh", backup, code=1)
    assert "is there already" in _run(pair.second, "backup.sh", backup, code=1)
    assert "is this a whole backup?" in _run(pair.second, "restore.sh", tmp_path, code=1)


def _client(suite: Outside) -> modelyard.Client:
    return modelyard.connect(suite.gateways[0], ca_file=suite.authority.certificate, token_file=suite.token)


def _fill(yard: modelyard.Client, folder: Path) -> None:
    steps = Demo(yard, weights.fetch(), folder, lambda: None).steps()
    for _, step in steps[:-1]:
        step()


def _write_what_is_lost(yard: modelyard.Client) -> int:
    parent, _, model_id = LOST.rpartition("/models/")
    yard.models.CreateModel(models_pb2.CreateModelRequest(parent=parent, model_id=model_id))
    model = models_pb2.Model(name=DEMO, description="lost")
    mask = field_mask_pb2.FieldMask(paths=["description"])
    yard.models.UpdateModel(models_pb2.UpdateModelRequest(model=model, update_mask=mask))
    for name in (LOST, DEMO):
        for _ in range(3):
            found = yard.models.GetModel(models_pb2.GetModelRequest(name=name))
    assert found.description == "lost"
    return int(found.revision)


def _restore(suite: Outside, backup: Path, bucket: list[tuple[str, bytes, dict[str, Any]]]) -> None:
    _run(suite, "restore.sh", backup)
    client = _s3(suite.s3)
    for key, body, headers in bucket:
        client.put_object(Bucket=BUCKET, Key=key, Body=body, **headers)
    for service in ("registry", "cdn"):
        suite.job(f"{service}-migration")
        suite.job(f"{service}-migration", "--restored")


def _run(suite: Outside, script: str, folder: Path, code: int = 0) -> str:
    done = subprocess.run(
        ["bash", str(DEPLOY / script), str(folder)],
        env={**suite.operators(), "LANG": os.environ.get("LANG", "C")},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def _tables(suite: Outside) -> dict[str, str]:
    found = {}
    for database in (DATABASE, ASSETS_DATABASE):
        names = suite.postgres.sql("SELECT tablename FROM pg_tables WHERE schemaname = 'public'", database).split()
        for name in names:
            sql = f"SELECT count(*), md5(string_agg(t::text, '|' ORDER BY t::text COLLATE \"C\")) FROM {name} t"  # noqa: S608
            found[f"{database}.{name}"] = suite.postgres.sql(sql, database)
    return found


def _objects(s3: S3) -> list[tuple[str, bytes, dict[str, Any]]]:
    client = _s3(s3)
    found = []
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET):
        for each in page.get("Contents", []):
            answer = client.get_object(Bucket=BUCKET, Key=each["Key"])
            headers: dict[str, Any] = {name: dict(answer)[name] for name in _HEADERS if name in answer}
            found.append((each["Key"], answer["Body"].read(), headers))
    return found


def _s3(s3: S3) -> S3Client:
    client: S3Client = boto3.client(
        "s3",
        endpoint_url=s3.endpoint,
        region_name=REGION,
        aws_access_key_id=s3.access_key_file.read_text().strip(),
        aws_secret_access_key=s3.secret_key_file.read_text().strip(),
        config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
    )
    return client


def _models(yard: modelyard.Client) -> Iterator[models_pb2.Model]:
    request = models_pb2.ListModelsRequest(parent=PARENT, page_size=1000)
    while True:
        page = yard.models.ListModels(request)
        yield from page.models
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token
