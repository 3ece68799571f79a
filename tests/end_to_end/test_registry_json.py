"""
The registry as JSON over HTTP, at the paths of its contracts, through the gateway.
"""

from __future__ import annotations

import pytest

from embedded.stack import Stack
from tests.end_to_end.rest import call, done

SPACE = "namespaces/json"
M = f"{SPACE}/models/m"


@pytest.fixture(scope="module", autouse=True)
def model(stack: Stack) -> None:
    """
    A model with two READY versions in a namespace of its own.
    """
    done(stack, "POST", "namespaces", {"owner": "ada"}, namespace_id="json")
    done(stack, "POST", f"{SPACE}/models", {"description": "A pelican"}, model_id="m")
    for number in ("1", "2"):
        assert done(stack, "POST", f"{M}/versions", {"stage": "candidate"})["number"] == number
        assert done(stack, "POST", f"{M}/versions/{number}:finalize", {})["state"] == "STATE_READY"


def test_updates_with_a_mask(stack: Stack) -> None:
    """
    PATCH changes what the mask names, of a namespace, a model, a version and a card.
    """
    changed = done(stack, "PATCH", SPACE, {"owner": "bob", "quota": {"maxModels": 2}}, update_mask="owner,quota")
    assert (changed["owner"], changed["quota"]["maxModels"]) == ("bob", "2")
    assert done(stack, "PATCH", M, {"task": "audio"}, update_mask="task")["description"] == "A pelican"
    labelled = done(stack, "PATCH", f"{M}/versions/1", {"labels": {"a": "b"}}, update_mask="labels")
    assert (labelled["labels"], labelled["stage"]) == ({"a": "b"}, "candidate")
    one = done(stack, "PATCH", f"{M}/versions/1", {"labels": {"c.d_e": "f"}}, update_mask="labels.c.d_e")
    assert one["labels"] == {"a": "b", "c.d_e": "f"}
    assert done(stack, "PATCH", f"{M}/versions/1", {}, update_mask="labels.a")["labels"] == {"c.d_e": "f"}
    done(stack, "PATCH", f"{M}/versions/1", {"labels": {"a": "b"}}, update_mask="labels")
    assert done(stack, "GET", f"{M}/versions:resolve", reference="latest")["number"] == "2"
    status, answer = call(stack, "PATCH", f"{M}/versions/1", {"lineage": {"run": "x"}}, update_mask="lineage")
    assert (status, answer["details"][0]["reason"]) == (400, "VERSION_IMMUTABLE")


def test_aliases(stack: Stack) -> None:
    """
    Aliases are moved, rolled back, and read as they were.
    """
    for number in (1, 2):
        done(stack, "POST", f"{M}/aliases:move", {"moves": [{"aliasId": "a", "version": f"{M}/versions/{number}"}]})
    assert done(stack, "POST", f"{M}/aliases/a:rollback", {})["version"] == f"{M}/versions/1"
    moves = done(stack, "GET", f"{M}/aliases/a/moves")["moves"]
    then = done(stack, "GET", f"{M}/aliases/a", read_time=moves[1]["startTime"])
    assert then["version"] == f"{M}/versions/2"


def test_cards(stack: Stack) -> None:
    """
    A card is imported, read, exported and searched.
    """
    content = "---\nlicense: mit\nextra: [1, 2]\n---\n# A walrus\n"
    made = done(stack, "POST", f"{M}/card:import", {"content": content})
    assert (made["license"], made["extra"]) == ("mit", {"extra": [1, 2]})
    assert done(stack, "GET", f"{M}/card:export")["content"] == content
    assert done(stack, "GET", f"{M}/card", number="1")["markdown"] == "# A walrus\n"
    assert [each["name"] for each in done(stack, "GET", f"{SPACE}/models:search", query="walrs")["models"]] == [M]
    assert done(stack, "PATCH", f"{M}/card", {"license": "apache-2.0"}, update_mask="license")["number"] == "2"
    assert len(done(stack, "GET", f"{M}/card/numbers")["cards"]) == 2


def test_evaluations(stack: Stack) -> None:
    """
    Results are recorded, listed and ranked.
    """
    result = {"version": f"{M}/versions/1", "dataset": "d", "metric": "top1", "value": 88.5}
    assert done(stack, "POST", f"{SPACE}/evaluations:record", {"evaluations": [result]})["recordedCount"] == "1"
    assert done(stack, "GET", f"{M}/evaluations", dataset="d")["evaluations"][0]["value"] == 88.5
    board = done(stack, "GET", f"{SPACE}/leaderboard", dataset="d", metric="top1")
    assert [each["model"] for each in board["entries"]] == [M]


def test_ids_with_slashes(stack: Stack) -> None:
    """
    Data sets and metrics with slashes and signs in their ids are recorded, replaced, listed, ranked and deleted.
    """
    result = {"version": f"{M}/versions/1", "dataset": "GLUE/SST-2", "metric": "val/acc@1 %", "value": 0.5}
    done(stack, "POST", f"{SPACE}/evaluations:record", {"evaluations": [result]})
    body = {"evaluations": [result], "replace": True}
    assert done(stack, "POST", f"{SPACE}/evaluations:record", body)["replacedCount"] == "1"
    ids = {"dataset": "GLUE/SST-2", "metric": "val/acc@1 %"}
    board = done(stack, "GET", f"{SPACE}/leaderboard", **ids)
    assert (board["direction"], board["entries"][0]["evaluation"]["value"]) == ("DIRECTION_HIGHER", 0.5)
    said = {"metric": "val/acc@1 %", "direction": "DIRECTION_LOWER"}
    assert done(stack, "PATCH", f"{SPACE}/metrics", said)["resultCount"] == "1"
    # Another question: the answer to the same one may be what it was a moment ago.
    assert done(stack, "GET", f"{SPACE}/leaderboard", **ids, page_size="5")["direction"] == "DIRECTION_LOWER"
    (metric,) = done(stack, "GET", f"{SPACE}/metrics", dataset="GLUE/SST-2")["metrics"]
    assert (metric["metric"], metric["direction"]) == ("val/acc@1 %", "DIRECTION_LOWER")
    (dataset,) = done(stack, "GET", f"{SPACE}/datasets", metric="val/acc@1 %")["datasets"]
    assert dataset["dataset"] == "GLUE/SST-2"
    (found,) = done(stack, "GET", f"{M}/evaluations", **ids)["evaluations"]
    assert done(stack, "POST", f"{SPACE}/evaluations:delete", {"names": [found["name"]]})["deletedCount"] == "1"
    selection = {"selection": {"version": f"{M}/versions/1", **ids}}
    assert done(stack, "POST", f"{SPACE}/evaluations:delete", selection)["deletedCount"] == "0"


def test_deployments_and_audit(stack: Stack) -> None:
    """
    A deployment is made and moves on; the audit tells both.
    """
    content = {"version": f"{M}/versions/1", "environment": "edge"}
    done(stack, "POST", f"{SPACE}/deployments", content, deployment_id="d")
    moved = done(stack, "POST", f"{SPACE}/deployments/d:updateStatus", {"state": "STATE_ROLLING_OUT"})
    assert moved["state"] == "STATE_ROLLING_OUT"
    assert len(done(stack, "GET", f"{SPACE}/deployments", environment="edge")["deployments"]) == 1
    entries = done(stack, "GET", "auditEntries", resource_prefix=f"{SPACE}/deployments/d")["entries"]
    assert [each["action"] for each in entries] == ["UpdateDeploymentStatus", "CreateDeployment"]
    assert entries[0]["after"]["state"] == "ROLLING_OUT"
    status, answer = call(stack, "DELETE", M)
    assert (status, answer["details"][0]["reason"]) == (400, "MODEL_DEPLOYED")
    changed = done(
        stack,
        "PATCH",
        f"{SPACE}/deployments/d",
        {"version": f"{M}/versions/2", "replicas": 2},
        update_mask="version,replicas",
    )
    assert (changed["version"], changed["replicas"]) == (f"{M}/versions/2", 2)
    found = done(stack, "GET", f"{SPACE}/deployments", version=f"{M}/versions/2", states="STATE_ROLLING_OUT")
    assert len(found["deployments"]) == 1
    status, answer = call(stack, "DELETE", f"{SPACE}/deployments/d")
    assert (status, answer["details"][0]["reason"]) == (400, "DEPLOYMENT_ACTIVE")
    assert done(stack, "DELETE", f"{SPACE}/deployments/d", force="true") == {}


def test_deletion(stack: Stack) -> None:
    """
    DELETE, :undelete and :purge.
    """
    other = f"{SPACE}/models/n"
    done(stack, "POST", f"{SPACE}/models", {}, model_id="n")
    assert "deleteTime" in done(stack, "DELETE", other)
    assert "deleteTime" not in done(stack, "POST", f"{other}:undelete", {})
    done(stack, "DELETE", other)
    assert done(stack, "POST", f"{other}:purge", {}) == {}
    assert call(stack, "GET", other)[0] == 404
    status, answer = call(stack, "DELETE", SPACE)
    assert (status, answer["details"][0]["reason"]) == (400, "NAMESPACE_NOT_EMPTY")


def test_permissions(stack: Stack) -> None:
    """
    The caller's permissions, of a namespace and of the registry itself; an unknown one is named.
    """
    asked = {"permissions": ["models.write", "policies.write"]}
    for path in (f"{SPACE}:testPermissions", "policy:testPermissions"):
        assert done(stack, "POST", path, asked) == asked
        assert "aliases.write" in done(stack, "POST", path, {})["permissions"]
    status, answer = call(stack, "POST", f"{SPACE}:testPermissions", {"permissions": ["models.write", "fly"]})
    assert status == 400
    violations = [each for detail in answer["details"] for each in detail.get("fieldViolations", ())]
    assert [each["field"] for each in violations] == ["permissions[1]"]
