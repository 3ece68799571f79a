"""
MLflow's protocol over the gateway. What its own clients do with it: tests/doors.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

import modelyard
from embedded.stack import Stack
from modelyard.registry.v1 import deployments_pb2, models_pb2, versions_pb2
from services.doors.tests.conftest import Publish
from services.doors.tests.http_client import Answer, ask

FILES = {"MLmodel": b"flavors: {}", "data/model.pkl": b"weights" * 100, "data-2/x": b"1"}
WRITES = {"update": "PATCH", "delete": "DELETE", "delete-tag": "DELETE"}


class Registry:
    """
    The door of one namespace.
    """

    def __init__(self, stack: Stack, namespace: str) -> None:
        self.stack = stack
        self.base = f"/mlflow/{namespace}/api/2.0"

    def get(self, path: str, **query: Any) -> Answer:
        return ask(self.stack.gateway, f"{self.base}/mlflow/{path}?{urlencode(query, doseq=True)}")

    def send(self, path: str, method: str = "", **given: Any) -> Answer:
        method = method or WRITES.get(path.rpartition("/")[2], "POST")
        return ask(self.stack.gateway, f"{self.base}/mlflow/{path}", method, json.dumps(given).encode())

    def model(self, name: str, **given: Any) -> dict[str, Any]:
        answer = self.send("registered-models/create", name=name, **given)
        assert answer.status == 200, answer.body
        found: dict[str, Any] = answer.json["registered_model"]
        return found

    def version(self, name: str, source: str = "s3://bucket/model", **given: Any) -> dict[str, Any]:
        answer = self.send("model-versions/create", name=name, source=source, **given)
        assert answer.status == 200, answer.body
        found: dict[str, Any] = answer.json["model_version"]
        return found

    def found(self, name: str, version: int | None = None) -> dict[str, Any]:
        if version is None:
            answer = self.get("registered-models/get", name=name).json
            model: dict[str, Any] = answer["registered_model"]
            return model
        answer = self.get("model-versions/get", name=name, version=version).json
        found: dict[str, Any] = answer["model_version"]
        return found

    def names(self, **query: Any) -> list[str]:
        return [each["name"] for each in self.get("registered-models/search", **query).json["registered_models"]]

    def versions(self, **query: Any) -> list[tuple[str, str]]:
        found = self.get("model-versions/search", **query).json["model_versions"]
        return [(each["name"], each["version"]) for each in found]


@pytest.fixture(scope="module")
def registry(stack: Stack, namespace: str) -> Registry:
    return Registry(stack, namespace)


def tags_of(entity: Mapping[str, Any]) -> dict[str, str]:
    return {each["key"]: each["value"] for each in entity["tags"]}


def error_of(answer: Answer) -> tuple[int, str, str]:
    return answer.status, answer.json["error_code"], answer.json["message"]


def test_a_model_has_what_it_was_created_with(registry: Registry) -> None:
    """
    A registered model comes back with its name, description, tags and times in milliseconds.
    """
    made = registry.model("created", description="first", tags=[{"key": "any key", "value": "v"}])
    found = registry.found("created")
    assert (found["name"], found["description"], tags_of(found)) == ("created", "first", {"any key": "v"})
    assert found["creation_timestamp"] == found["last_updated_timestamp"] == made["creation_timestamp"] > 1.7e12
    assert (found["latest_versions"], found["aliases"]) == ([], [])


def test_any_text_names_a_model(registry: Registry, yard: modelyard.Client, namespace: str) -> None:
    """
    A name that is no id of the registry works everywhere: by get, search, pattern, and on its versions.
    """
    name = "Größe & (two words)"
    registry.model(name)
    registry.version(name, run_id="odd")
    assert registry.found(name)["name"] == registry.found(name, 1)["name"] == name
    assert registry.names(filter=f"name = '{name}'") == registry.names(filter="name LIKE '%two words)'") == [name]
    assert registry.versions(filter="run_id = 'odd'") == [(name, "1")]


def test_models_of_the_registry_are_registered_models(registry: Registry, publish: Publish) -> None:
    """
    What was stored with our own client has its name, its newest version and its aliases here.
    """
    publish(FILES, "native", alias="production")
    found = registry.found("native")
    assert found["aliases"] == [{"alias": "production", "version": "1"}]
    assert [(each["version"], each["status"], each["aliases"]) for each in found["latest_versions"]] == [
        ("1", "READY", ["production"])
    ]


def test_errors_have_codes_and_words_of_mlflow(registry: Registry) -> None:
    """
    Programs compare codes, statuses and messages: they are those of MLflow's own server.
    """
    registry.model("known")
    registry.version("known")
    missing = "RESOURCE_DOES_NOT_EXIST"
    invalid = "INVALID_PARAMETER_VALUE"
    no_model = (404, missing, "Registered Model with name=nothing not found")
    no_version = (404, missing, "Model Version (name=known, version=9) not found")
    cases = [
        (registry.get("registered-models/get", name="nothing"), no_model),
        (registry.send("registered-models/update", name="nothing", description="x"), no_model),
        (registry.send("registered-models/delete", name="nothing"), no_model),
        (registry.send("registered-models/set-tag", name="nothing", key="k", value="v"), no_model),
        (registry.send("model-versions/create", name="nothing", source="s3://b/m"), no_model),
        (registry.send("registered-models/rename", name="nothing", new_name="x"), no_model),
        (
            registry.send("registered-models/create", name="known"),
            (400, "RESOURCE_ALREADY_EXISTS", "Registered Model (name=known) already exists."),
        ),
        (registry.get("model-versions/get", name="known", version=9), no_version),
        (registry.send("model-versions/update", name="known", version="9", description="x"), no_version),
        (registry.send("model-versions/delete", name="known", version="9"), no_version),
        (registry.send("model-versions/transition-stage", name="known", version="9", stage="Staging"), no_version),
        (registry.get("model-versions/get-download-uri", name="known", version="9"), no_version),
        (registry.send("model-versions/set-tag", name="known", version="9", key="k", value="v"), no_version),
        (registry.send("registered-models/alias", name="known", alias="a", version="9"), no_version),
        (
            registry.get("model-versions/get", name="known", version="x"),
            (400, invalid, "Parameter 'version' must be an integer, got 'x'."),
        ),
        (
            registry.get("registered-models/alias", name="known", alias="nothing"),
            (400, invalid, "Registered model alias nothing not found."),
        ),
        (
            registry.send("registered-models/create", name=""),
            (400, invalid, "Missing value for required parameter 'name'."),
        ),
    ]
    assert [error_of(answer) for answer, _ in cases] == [expected for _, expected in cases]


def test_a_deleted_model_is_gone(registry: Registry) -> None:
    """
    A deleted model and its versions are not found, and its name is free at once.
    """
    registry.model("gone")
    registry.version("gone")
    registry.send("registered-models/delete", name="gone")
    assert registry.get("registered-models/get", name="gone").status == 404
    assert registry.get("model-versions/get", name="gone", version=1).status == 404
    assert registry.names(filter="name = 'gone'") == []
    registry.model("gone")
    assert registry.version("gone")["version"] == "1"


def test_a_rename_is_refused(registry: Registry) -> None:
    """
    Rename answers 501 and says what to do.
    """
    registry.model("renamed")
    status, code, message = error_of(registry.send("registered-models/rename", name="renamed", new_name="x"))
    assert (status, code) == (501, "NOT_IMPLEMENTED")
    assert "copy its versions" in message


def test_a_version_keeps_its_origin(registry: Registry) -> None:
    """
    Source, run, link, description, tags and the model's id come back; without files the source is where to download.
    """
    registry.model("origins")
    given = {"run_id": "r1", "run_link": "http://runs/1", "description": "d", "model_id": "m-1"}
    registry.version("origins", "runs:/r1/model", tags=[{"key": "k", "value": "v"}], **given)
    found = registry.found("origins", 1)
    assert {key: found[key] for key in given} == given
    assert (found["source"], found["status"], found["current_stage"]) == ("runs:/r1/model", "READY", "None")
    assert tags_of(found) == {"k": "v"}
    uri = registry.get("model-versions/get-download-uri", name="origins", version="1").json["artifact_uri"]
    assert uri == "runs:/r1/model"


@pytest.mark.parametrize("source", ["file:///home/ann/model", "/home/ann/model", "C:\\model", "FILE:x"])
def test_a_source_on_the_clients_machine_is_refused(registry: Registry, source: str) -> None:
    """
    Nobody else can read such a source: the error says what works instead.
    """
    registry.names()
    status, code, message = error_of(registry.send("model-versions/create", name="any", source=source))
    assert (status, code) == (400, "INVALID_PARAMETER_VALUE")
    assert "modelyard versions push" in message


def test_a_version_of_a_version_has_its_files(registry: Registry, publish: Publish, stack: Stack) -> None:
    """
    models:/NAME/VERSION, and the URL that another version was downloaded from, give a new version the same files.
    """
    publish(FILES, "original")
    registry.model("copies")
    own = registry.get("model-versions/get-download-uri", name="original", version="1").json["artifact_uri"]
    assert own == f"http://{stack.gateway}{registry.base}/mlflow-artifacts/artifacts/models/original/versions/1"
    for number, source in enumerate(("models:/original/1", own), start=1):
        registry.version("copies", source)
        uri = registry.get("model-versions/get-download-uri", name="copies", version=number).json["artifact_uri"]
        assert ask(stack.gateway, f"{uri.removeprefix(f'http://{stack.gateway}')}/MLmodel").status == 307
    answer = registry.send("model-versions/create", name="copies", source="models:/original/9")
    assert answer.status == 404


def test_a_copy_without_files_is_downloaded_from_the_origin(registry: Registry) -> None:
    """
    The copy of a copy of a version without files has the first one's source to download, also after that was deleted.
    """
    for name, source in (("c1", "s3://b/m"), ("c2", "models:/c1/1"), ("c3", "models:/c2/1")):
        registry.model(name)
        registry.version(name, source)
    registry.send("registered-models/delete", name="c1")
    found = registry.found("c3", 1)
    assert (found["source"], found["tags"]) == ("models:/c2/1", [])
    uri = registry.get("model-versions/get-download-uri", name="c3", version=1).json["artifact_uri"]
    assert uri == "s3://b/m"


def test_tags_change_one_by_one(registry: Registry) -> None:
    """
    Tags of models and versions are set, replaced and deleted by key; long values come back whole, others stay.
    """
    registry.model("tagged", tags=[{"key": "stays", "value": "x"}])
    registry.version("tagged", tags=[{"key": "stays", "value": "x"}])
    for kind, more in (("registered-models", {}), ("model-versions", {"version": "1"})):
        for key, value in {"a.b, c": "1", "long": "y" * 100_000, "empty": "", "replaced": "z" * 300}.items():
            answer = registry.send(f"{kind}/set-tag", name="tagged", key=key, value=value, **more)
            assert (answer.status, answer.json) == (200, {})
        registry.send(f"{kind}/set-tag", name="tagged", key="replaced", value="short", **more)
        registry.send(f"{kind}/delete-tag", name="tagged", key="a.b, c", **more)
        found = tags_of(registry.found("tagged", 1 if more else None))
        assert found == {"stays": "x", "long": "y" * 100_000, "empty": "", "replaced": "short"}


def test_long_tags_are_found(registry: Registry) -> None:
    """
    A tag of more than 256 characters is found by its whole value, and by no other.
    """
    registry.model("long-tag", tags=[{"key": "long", "value": "q" * 300}])
    assert registry.names(filter=f"tags.long = '{'q' * 300}'") == ["long-tag"]
    assert registry.names(filter=f"tags.long = '{'q' * 301}'") == []


def test_stages(registry: Registry) -> None:
    """
    A stage is set in any case; on request the versions that had it are archived; the newest of each stage is listed.
    """
    registry.model("staged")
    for number in (1, 2, 3):
        registry.version("staged")
        moved = {"name": "staged", "version": str(number), "stage": "production"}
        answer = registry.send("model-versions/transition-stage", **moved, archive_existing_versions=number == 2)
        assert answer.json["model_version"]["current_stage"] == "Production"
    registry.version("staged")
    assert [registry.found("staged", each)["current_stage"] for each in (1, 2, 3, 4)] == [
        "Archived",
        "Production",
        "Production",
        "None",
    ]

    def latest(**given: Any) -> dict[str, str]:
        found = registry.send("registered-models/get-latest-versions", name="staged", **given).json
        return {each["current_stage"]: each["version"] for each in found["model_versions"]}

    assert latest() == {"Archived": "1", "Production": "3", "None": "4"}
    assert latest(stages=["production", "Staging"]) == {"Production": "3"}
    for stage, archive in (("Nowhere", False), ("Archived", True)):
        answer = registry.send(
            "model-versions/transition-stage",
            name="staged",
            version="1",
            stage=stage,
            archive_existing_versions=archive,
        )
        assert (answer.status, answer.json["error_code"]) == (400, "INVALID_PARAMETER_VALUE")


def test_aliases(registry: Registry) -> None:
    """
    An alias is set, moved, read and deleted, and shown with its model and its version.
    """
    registry.model("aliased")
    for number in ("1", "2"):
        registry.version("aliased")
        registry.send("registered-models/alias", name="aliased", alias="Champion.1", version=number)
    found = registry.get("registered-models/alias", name="aliased", alias="Champion.1").json["model_version"]
    assert (found["version"], found["aliases"]) == ("2", ["Champion.1"])
    assert registry.found("aliased")["aliases"] == [{"alias": "Champion.1", "version": "2"}]
    assert registry.found("aliased", 1)["aliases"] == []
    registry.send("registered-models/alias", "DELETE", name="aliased", alias="Champion.1")
    assert registry.found("aliased")["aliases"] == []


@pytest.mark.parametrize("alias", ["latest", "Latest", "v1", "V12", "", "a/b", "a b", "a" * 256, "../x"])
def test_aliases_that_are_no_names(registry: Registry, alias: str) -> None:
    """
    What a reference would confuse, and what no alias can be, is rejected.
    """
    answer = registry.send("registered-models/alias", name="any", alias=alias, version="1")
    assert (answer.status, answer.json["error_code"]) == (400, "INVALID_PARAMETER_VALUE")


def test_a_deleted_version_takes_its_aliases_along(registry: Registry) -> None:
    """
    A version is deleted with the aliases that point at it; others stay, and its number is not used again.
    """
    registry.model("pruned")
    for _ in range(2):
        registry.version("pruned")
    for alias, version in (("a", "1"), ("b", "2")):
        registry.send("registered-models/alias", name="pruned", alias=alias, version=version)
    assert registry.send("model-versions/delete", name="pruned", version="2").json == {}
    assert registry.found("pruned")["aliases"] == [{"alias": "a", "version": "1"}]
    assert registry.versions(filter="name = 'pruned'") == [("pruned", "1")]
    assert registry.version("pruned")["version"] == "3"


def test_a_deployed_version_is_not_deleted(
    registry: Registry, yard: modelyard.Client, publish: Publish, namespace: str
) -> None:
    """
    What a live deployment runs is not deleted, not even with the alias that points at it.
    """
    publish(FILES, "deployed", alias="live")
    name = f"namespaces/{namespace}/models/deployed"
    made = yard.deployments.CreateDeployment(
        deployments_pb2.CreateDeploymentRequest(
            parent=f"namespaces/{namespace}",
            deployment_id="serving",
            deployment=deployments_pb2.Deployment(version=f"{name}/versions/1", environment="production"),
        )
    )
    assert made.version == f"{name}/versions/1"
    answer = registry.send("model-versions/delete", name="deployed", version="1")
    assert (answer.status, answer.json["error_code"]) == (400, "INVALID_PARAMETER_VALUE")
    assert registry.found("deployed", 1)["aliases"] == ["live"]


@pytest.fixture(scope="module")
def fleet(stack: Stack, yard: modelyard.Client, namespace: str) -> Registry:
    """
    Twelve models with one version each, in a namespace of their own.
    """
    from modelyard.registry.v1 import namespaces_pb2

    own = f"{namespace}-fleet"
    yard.namespaces.CreateNamespace(namespaces_pb2.CreateNamespaceRequest(namespace_id=own))
    found = Registry(stack, own)
    for number in range(12):
        name = f"Model{number:02}"
        tags = [{"key": "parity", "value": "even"}] if number % 2 == 0 else []
        found.model(name, tags=tags)
        found.version(name, f"s3://bucket/{number}", run_id=f"run{number % 3}", tags=tags)
    return found


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("", range(12)),
        ("name = 'Model03'", [3]),
        ("name LIKE 'Model1%'", [10, 11]),
        ("name LIKE 'model1%'", []),
        ("name ILIKE 'model1%'", [10, 11]),
        ("name IN ('Model01', 'Model05', 'Other')", [1, 5]),
        ("tags.parity = 'even' AND name ILIKE '%0_'", [0, 2, 4, 6, 8]),
        ("tags.parity != 'even'", []),
        ("tags.parity LIKE 'ev%'", [0, 2, 4, 6, 8, 10]),
        ("tag.`mlflow.prompt.is_prompt` != 'true'", range(12)),
    ],
)
def test_models_are_searched(fleet: Registry, text: str, numbers: list[int]) -> None:
    """
    Every form of a filter finds its models, by name.
    """
    assert fleet.names(filter=text) == [f"Model{number:02}" for number in numbers]


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("", range(12)),
        ("name LIKE 'Model1%'", [10, 11]),
        ("run_id = 'run1'", [1, 4, 7, 10]),
        ("run_id IN ('run1', 'run2') AND source_path LIKE '%/1_'", [10, 11]),
        ("source_path = 's3://bucket/4'", [4]),
        ("version_number > 1", []),
        ("version_number = 1 AND tags.parity = 'even'", [0, 2, 4, 6, 8, 10]),
    ],
)
def test_versions_are_searched(fleet: Registry, text: str, numbers: list[int]) -> None:
    """
    Every form of a filter finds its versions, the one that changed last first.
    """
    assert fleet.versions(filter=text) == [(f"Model{number:02}", "1") for number in reversed(numbers)]


def test_searches_are_ordered(fleet: Registry) -> None:
    """
    Models and versions come in the order that was asked for.
    """
    names = [f"Model{number:02}" for number in range(12)]
    assert fleet.names(order_by="name DESC") == names[::-1]
    assert fleet.names(order_by=["creation_timestamp DESC", "name"]) == names[::-1]
    assert [name for name, _ in fleet.versions(order_by=["version_number DESC", "name ASC"])] == names


@pytest.mark.parametrize("kind", ["registered-models", "model-versions"])
def test_pages_are_the_whole(fleet: Registry, kind: str) -> None:
    """
    Pages of five are together the whole answer, each entry once; the last one has no token.
    """
    field = kind.replace("-", "_")
    whole = fleet.get(f"{kind}/search").json[field]
    found, token = [], ""
    while True:
        page = fleet.get(f"{kind}/search", max_results=5, page_token=token).json
        assert len(page[field]) <= 5
        found += page[field]
        if not (token := page["next_page_token"]):
            break
    assert found == whole
    assert len(found) == 12


def test_the_root_is_the_default_namespace(stack: Stack, registry: Registry) -> None:
    """
    Without a prefix the default namespace is served, and each namespace shows its own models only.
    """
    registry.model("only-here")
    path = "/api/2.0/mlflow/registered-models/get?name=only-here"
    assert ask(stack.gateway, path).status == 404
    assert ask(stack.gateway, f"/mlflow/default{path}").status == 404
    assert ask(stack.gateway, "/api/2.0/mlflow/registered-models/search").status == 200


def test_an_unknown_namespace_is_an_error(stack: Stack) -> None:
    """
    A namespace that does not exist, or cannot, is 404 in MLflow's form.
    """
    for namespace in ("no-such-namespace", "UPPER", "a%2Fmodels%2Fb", "..%2Fdefault"):
        answer = ask(stack.gateway, f"/mlflow/{namespace}/api/2.0/mlflow/registered-models/search")
        assert (answer.status, answer.json["error_code"]) == (404, "RESOURCE_DOES_NOT_EXIST"), namespace


def test_what_a_registry_does_not_have(stack: Stack) -> None:
    """
    Experiments and runs are 404 with a sentence that says where they belong.
    """
    for path in ("/api/2.0/mlflow/experiments/search", "/mlflow/default/api/2.0/mlflow/runs/create"):
        answer = ask(stack.gateway, path, "POST", b"{}")
        assert (answer.status, answer.json["error_code"]) == (404, "ENDPOINT_NOT_FOUND")
        assert "MLFLOW_TRACKING_URI" in answer.json["message"]


def test_artifacts_are_listed_by_folder(registry: Registry, publish: Publish, stack: Stack) -> None:
    """
    A folder's files and folders are listed, with sizes of files only.
    """
    publish(FILES, "listed")
    path = f"{registry.base}/mlflow-artifacts/artifacts?path=models/listed/versions/1"
    assert ask(stack.gateway, path).json["files"] == [
        {"path": "MLmodel", "is_dir": False, "file_size": 11},
        {"path": "data", "is_dir": True},
        {"path": "data-2", "is_dir": True},
    ]
    assert ask(stack.gateway, f"{path}/data").json["files"] == [
        {"path": "model.pkl", "is_dir": False, "file_size": 700}
    ]
    assert ask(stack.gateway, f"{path}/nothing").json == {"files": []}


def test_an_artifact_is_at_assets(registry: Registry, publish: Publish, stack: Stack) -> None:
    """
    GET of an artifact redirects to /assets/ at the same gateway, where its bytes are; no other path has any.
    """
    publish(FILES, "read")
    start = f"{registry.base}/mlflow-artifacts/artifacts/models/read/versions"
    answer = ask(stack.gateway, f"{start}/1/data/model.pkl")
    origin = f"http://{stack.gateway}"
    assert (answer.status, answer.headers["location"].startswith(f"{origin}/assets/")) == (307, True)
    assert ask(stack.gateway, answer.headers["location"].removeprefix(origin)).body == FILES["data/model.pkl"]
    for path in ("1/nothing", "1/data", "2/MLmodel", "1/data%2F..%2FMLmodel", "1%2F..%2F1%2FMLmodel", "x/MLmodel"):
        assert ask(stack.gateway, f"{start}/{path}").status == 404, path


def test_a_version_that_is_not_ready_has_no_artifacts(
    registry: Registry, yard: modelyard.Client, publish: Publish, stack: Stack, namespace: str
) -> None:
    """
    The files of a PENDING version are not verified, and not served; its status says so.
    """
    publish(FILES, "pending")
    source = yard.versions.GetVersion(
        versions_pb2.GetVersionRequest(name=f"namespaces/{namespace}/models/pending/versions/1")
    )
    yard.versions.CreateVersion(
        versions_pb2.CreateVersionRequest(
            parent=f"namespaces/{namespace}/models/pending", version=versions_pb2.Version(artifacts=source.artifacts)
        )
    )
    assert registry.found("pending", 2)["status"] == "PENDING_REGISTRATION"
    path = f"{registry.base}/mlflow-artifacts/artifacts/models/pending/versions/2/MLmodel"
    assert ask(stack.gateway, path).status == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "artifacts/1/r/artifacts/model.pkl"),
        ("POST", "artifacts/1/r/artifacts/model.pkl"),
        ("DELETE", "artifacts/models/read/versions/1"),
        ("POST", "mpu/create/1/r"),
    ],
)
def test_artifacts_are_not_written(stack: Stack, registry: Registry, method: str, path: str) -> None:
    """
    Writes of artifacts answer 501 and say what works.
    """
    answer = ask(stack.gateway, f"{registry.base}/mlflow-artifacts/{path}", method, b"x")
    assert (answer.status, answer.json["error_code"]) == (501, "NOT_IMPLEMENTED")
    assert "modelyard versions push" in answer.json["message"]


BAD: list[Callable[[Registry], Answer]] = [
    lambda door: door.send("registered-models/create", name="n" * 10_000),
    lambda door: door.send("registered-models/create", name="../../etc/passwd"),
    lambda door: door.send("registered-models/create", name="a%2Fb:c"),
    lambda door: door.send("registered-models/create", name="nul\x00"),
    lambda door: door.send("registered-models/create", name=["a"]),
    lambda door: door.send("registered-models/create", name={"a": 1}),
    lambda door: door.send("registered-models/create", name=True),
    lambda door: door.send("registered-models/create", name="half \ud800"),
    lambda door: door.send("registered-models/create", name="bad-tags", tags="x"),
    lambda door: door.send("registered-models/create", name="bad-tags", tags=[{"value": "x"}]),
    lambda door: door.send("registered-models/create", name="bad-tags", tags=[{"key": "k" * 300, "value": "x"}]),
    lambda door: door.send("registered-models/create", name="bad-tags", tags=[{"key": "k", "value": "v" * 200_000}]),
    lambda door: door.send("registered-models/create", name="bad-text", description="d" * 20_000),
    lambda door: door.send("registered-models/set-tag", name="any", key="", value="x"),
    lambda door: door.send("model-versions/create", name="any", source=""),
    lambda door: door.get("model-versions/get", name="any", version="9" * 1000),
    lambda door: door.get("model-versions/get", name="any", version="-1"),
    lambda door: door.get("model-versions/get", name="any", version="1/../2"),
    lambda door: door.get("registered-models/search", filter="name = 'a' AND " * 600 + "name = 'a'"),
    lambda door: door.get("registered-models/search", filter="name = 'a' AND " * 150 + "name = 'a'"),
    lambda door: door.get("registered-models/search", max_results="0"),
    lambda door: door.get("registered-models/search", max_results="1001"),
    lambda door: door.get("registered-models/search", max_results="ten"),
    lambda door: door.get("registered-models/search", page_token="rubbish"),
    lambda door: door.get("registered-models/search", order_by="description"),
    lambda door: door.get("model-versions/search", max_results="200001"),
    lambda door: door.get("model-versions/search", filter="name = 'a'; --"),
    lambda door: ask(door.stack.gateway, f"{door.base}/mlflow/registered-models/create", "POST", b"{"),
    lambda door: ask(door.stack.gateway, f"{door.base}/mlflow/registered-models/create", "POST", b"[]"),
    lambda door: ask(door.stack.gateway, f"{door.base}/mlflow/registered-models/create", "POST", b"\xff"),
    lambda door: ask(door.stack.gateway, f"{door.base}/mlflow/registered-models/create", "POST", b"[" * 100_000),
]


@pytest.mark.parametrize("number", range(len(BAD)))
def test_bad_requests_are_errors_of_mlflow(registry: Registry, number: int) -> None:
    """
    Traversal, endless names and filters, wrong types and what is no JSON get 400 or 404 in MLflow's form.
    """
    answer = BAD[number](registry)
    assert answer.status in {400, 404}, answer.body[:300]
    assert answer.json["error_code"] in {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"}
    assert len(answer.body) < 2000


def test_a_body_that_is_too_large_is_rejected(stack: Stack) -> None:
    """
    A body of more than 1 MiB is rejected with 413 before it is sent.
    """
    with closing(http.client.HTTPConnection(stack.gateway, timeout=30)) as connection:
        connection.putrequest("POST", "/api/2.0/mlflow/registered-models/create")
        connection.putheader("content-length", str((1 << 20) + 1))
        connection.endheaders()
        response = connection.getresponse()
        assert (response.status, json.loads(response.read())["error_code"]) == (413, "INVALID_PARAMETER_VALUE")


def test_a_model_shows_what_its_owner_named_it(registry: Registry, yard: modelyard.Client, namespace: str) -> None:
    """
    A display name that was given with our own client is no name: the model is found by its id.
    """
    yard.models.CreateModel(
        models_pb2.CreateModelRequest(
            parent=f"namespaces/{namespace}", model_id="resnet", model=models_pb2.Model(display_name="ResNet 50")
        )
    )
    assert registry.found("resnet")["name"] == "resnet"
    assert registry.names(filter="name LIKE 'ResNet%'") == []


def test_the_commands_of_the_page_work(stack: Stack, namespace: str, tmp_path: Path) -> None:
    """
    The commands of docs/mlflow.md, in order, store a model that the door shows with its alias and its files.
    """
    page = (Path(__file__).parents[3] / "docs" / "mlflow.md").read_text()
    own = f"{namespace}-page"
    (tmp_path / "token").write_text("")
    (tmp_path / own).mkdir()
    (tmp_path / own / "MLmodel").write_bytes(FILES["MLmodel"])
    commands = "\n".join(re.findall(r"^```bash\n(.*?)^```", page, re.MULTILINE | re.DOTALL))
    commands = re.sub(r"\b(wine|vision)\b", own, commands).replace("localhost:8080", stack.gateway)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "MODELYARD_TARGET": stack.gateway,
    }
    commands += 'echo "$MLFLOW_REGISTRY_URI"\n'
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"http://{stack.gateway}/mlflow/{own}"
    assert Registry(stack, own).names() == []
    default = Registry(stack, "default")
    found = default.get("registered-models/alias", name=own, alias="champion").json["model_version"]
    assert (found["version"], found["status"]) == ("1", "READY")
    path = f"{default.base}/mlflow-artifacts/artifacts?path=models/{own}/versions/1"
    assert [each["path"] for each in ask(stack.gateway, path).json["files"]] == ["MLmodel"]
