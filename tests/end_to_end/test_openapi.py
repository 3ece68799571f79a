"""
What the served OpenAPI document says is so: its paths, parameters, bodies, errors and streams, on the running gateway.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from openapi_schema_validator import OAS31Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

import modelyard
from embedded.stack import Stack
from gateway.openapi.__main__ import COMMITTED
from tests.end_to_end.rest import call, done

SPACE = "namespaces/openapi"
NAMES = {"namespace": "openapi", "model": "m", "version": "1", "alias": "a", "deployment": "d", "path": "nothing"}
PATHS: dict[str, Any] = json.loads(COMMITTED.read_text())["paths"]


@pytest.fixture(scope="module")
def document(stack: Stack) -> dict[str, Any]:
    with urllib.request.urlopen(f"http://{stack.gateway}/openapi.json", timeout=10) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


@pytest.fixture(scope="module", autouse=True)
def model(stack: Stack) -> None:
    """
    A model with a version, an alias and a deployment, in a namespace of its own.
    """
    done(stack, "POST", "namespaces", {}, namespace_id="openapi")
    done(stack, "POST", f"{SPACE}/models", {"parameterCount": "9007199254740993"}, model_id="m")
    done(stack, "POST", f"{SPACE}/models/m/versions", {"stage": "candidate"})
    done(stack, "POST", f"{SPACE}/models/m/versions/1:finalize", {})
    moves = [{"aliasId": "a", "version": f"{SPACE}/models/m/versions/1"}]
    done(stack, "POST", f"{SPACE}/models/m/aliases:move", {"moves": moves})
    content = {"version": f"{SPACE}/models/m/versions/1", "environment": "edge"}
    done(stack, "POST", f"{SPACE}/deployments", content, deployment_id="d")


def check(document: dict[str, Any], operation: dict[str, Any], status: int, answer: Any) -> None:
    """
    An answer is one that the document declares, and looks as it says.
    """
    response = operation["responses"].get(str(status), document["components"]["responses"]["Error"])
    schema = response["content"]["application/json"]["schema"]
    registry: Registry[Any] = Registry().with_resource("urn:it", Resource.from_contents(document, DRAFT202012))
    absolute = {"$ref": f"urn:it{schema['$ref']}"} if "$ref" in schema else schema
    OAS31Validator(absolute, registry=registry, format_checker=OAS31Validator.FORMAT_CHECKER).validate(answer)


@pytest.mark.parametrize(
    "path",
    [path for path, verbs in PATHS.items() if "get" in verbs and ":watch" not in path],
)
def test_every_path_that_is_read_is_served(stack: Stack, document: dict[str, Any], path: str) -> None:
    """
    The gateway knows every path, and answers as its operation says, whether there is such a thing or not.
    """
    operation = document["paths"][path]["get"]
    filled = path
    for parameter in operation["parameters"]:
        if parameter["in"] == "path":
            name = "shared" if path.startswith("/v1/cache/") else NAMES.get(parameter["name"], "0" * 64)
            filled = filled.replace(f"{{{parameter['name']}}}", name if parameter["name"] != "key" else "k")
    status, answer = call(stack, "GET", filled.removeprefix("/v1/"))
    assert answer.get("message") != "no such path"
    assert status in (200, 400, 404)
    check(document, operation, status, answer)


def test_the_model_is_described(stack: Stack, document: dict[str, Any]) -> None:
    """
    A 64-bit number is a string, a time a date-time: no digit is lost.
    """
    answer = done(stack, "GET", f"{SPACE}/models/m")
    assert answer["parameterCount"] == "9007199254740993"
    check(document, document["paths"]["/v1/namespaces/{namespace}/models/{model}"]["get"], 200, answer)


def test_a_body_and_parameters_are_taken(stack: Stack, document: dict[str, Any]) -> None:
    """
    PATCH with the body and the query parameter of the document changes what it says.
    """
    operation = document["paths"]["/v1/namespaces/{namespace}/models/{model}"]["patch"]
    assert "update_mask" in {each["name"] for each in operation["parameters"]}
    answer = done(stack, "PATCH", f"{SPACE}/models/m", {"displayName": "M"}, update_mask="display_name")
    assert answer["displayName"] == "M"
    check(document, operation, 200, answer)


def test_an_error_is_described(stack: Stack, document: dict[str, Any]) -> None:
    """
    A refusal has the status and the shape of the document, with its reason.
    """
    operation = document["paths"]["/v1/namespaces/{namespace}/models"]["post"]
    status, answer = call(stack, "POST", f"{SPACE}/models", {}, model_id="m")
    assert (status, answer["details"][0]["reason"]) == (409, "MODEL_EXISTS")
    assert "409" in operation["responses"]
    check(document, operation, status, answer)


def test_a_path_with_slashes(stack: Stack, yard: modelyard.Client, document: dict[str, Any], tmp_path: Path) -> None:
    """
    The path of a static file is one parameter, with its slashes as they are.
    """
    file = tmp_path / "app.js"
    file.write_bytes(b"let it = 1;")
    asset = yard.upload_file(file)
    operation = document["paths"]["/v1/static/{path}"]["put"]
    answer = done(stack, "PUT", "static/site/app.js", {"asset": asset.name})
    assert answer["name"] == "static/site/app.js"
    check(document, operation, 200, answer)


def test_a_stream_has_an_object_per_line(stack: Stack, document: dict[str, Any]) -> None:
    """
    A stream is application/x-ndjson, and each message arrives when it is sent.
    """
    operation = document["paths"]["/v1/namespaces/{namespace}/deployments/{deployment}:watch"]["get"]
    (declared,) = operation["responses"]["200"]["content"]
    url = f"http://{stack.gateway}/v1/{SPACE}/deployments/d:watch"
    with urllib.request.urlopen(url, timeout=10) as answer:
        assert answer.headers["content-type"] == declared == "application/x-ndjson"
        first = json.loads(answer.readline())
        done(stack, "POST", f"{SPACE}/deployments/d:updateStatus", {"state": "STATE_ROLLING_OUT"})
        second = json.loads(answer.readline())
    states = [each["deployment"]["state"] for each in (first, second)]
    assert states == ["STATE_PENDING", "STATE_ROLLING_OUT"]


def lines(stack: Stack, path: str) -> Generator[dict[str, Any], None, None]:
    """
    The objects of a stream, as they come.
    """
    with urllib.request.urlopen(f"http://{stack.gateway}/v1/{path}", timeout=10) as answer:
        assert answer.headers["content-type"] == "application/x-ndjson"
        for line in answer:
            yield json.loads(line)


def test_changes_of_the_registry_are_followed(stack: Stack) -> None:
    """
    A heartbeat comes first, then each revision once: a model that is made after the stream began is in it.
    """
    following = lines(stack, f"changes:watch?resource_prefix={SPACE}&heartbeat_interval=0.2s")
    assert "appliedRevision" in next(following)["heartbeat"]
    done(stack, "POST", f"{SPACE}/models", {}, model_id="followed")
    (change,) = next(each for each in following if "revision" in each)["revision"]["changes"]
    assert (change["resource"], change["kind"]) == (f"{SPACE}/models/followed", "KIND_CREATED")
    # And on and on.
    assert "heartbeat" in next(following)
    following.close()


def test_changes_of_assets_are_followed(stack: Stack, yard: modelyard.Client, tmp_path: Path) -> None:
    """
    The same for assets.
    """
    following = lines(stack, "assets:watchChanges?heartbeat_interval=0.2s")
    assert "heartbeat" in next(following)
    file = tmp_path / "file"
    file.write_bytes(b"followed")
    name = yard.upload_file(file).name
    changes = (each["revision"]["changes"] for each in following if "revision" in each)
    assert any(change["resource"] == name for change in next(changes))
    following.close()


def test_a_namespace_of_the_cache_is_followed(stack: Stack) -> None:
    """
    A key that is set is told of.
    """
    following = lines(stack, "cache/shared/keys:watch")
    assert "appliedSequence" in next(following)
    done(stack, "PUT", "cache/shared/keys/followed", {"value": "eA=="})
    assert next(each for each in following if "invalidation" in each)["invalidation"]["keys"] == ["followed"]
    following.close()


@pytest.mark.parametrize(
    "path",
    [
        "changes:watch?start_revision=-1",
        "assets:watchChanges?start_revision=-1",
        "cache/shared/keys:watch?start_sequence=-1",
    ],
)
def test_a_bad_beginning_of_a_stream_is_refused(stack: Stack, path: str) -> None:
    """
    What cannot be followed is 400, with the field that is wrong.
    """
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"http://{stack.gateway}/v1/{path}", timeout=10)
    with refused.value as answer:
        assert answer.status == 400
        found = (detail for detail in json.load(answer)["details"] if detail["@type"].endswith("BadRequest"))
        assert next(found)["fieldViolations"][0]["field"].startswith("start_")


def test_a_stream_that_is_refused_is_an_error(stack: Stack) -> None:
    """
    Before the first message an error is a google.rpc.Status like any other.
    """
    url = f"http://{stack.gateway}/v1/{SPACE}/deployments/nothing:watch"
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(url, timeout=10)
    with refused.value as answer:
        assert (answer.status, answer.headers["content-type"]) == (404, "application/json")
        assert json.load(answer)["code"] == 5
