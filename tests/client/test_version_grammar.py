"""
One grammar for a version in every command that takes one, against real services.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.client.commands import Run, new_id


@pytest.fixture(scope="module")
def model(cli: Run, tmp_path_factory: pytest.TempPathFactory) -> str:
    """
    A model with versions 1 and 2, which are READY, 3, which is PENDING, and the alias production on 1. Tests may move
    other aliases, and create versions that stay PENDING.
    """
    file = tmp_path_factory.mktemp("model") / "weights.txt"
    model = new_id("m")
    cli("models", "create", model)
    for number in (1, 2):
        file.write_text(f"{model} {number}")
        assert cli("versions", "push", model, str(file)).code == 0
    assert cli("versions", "create", model).code == 0
    assert cli("aliases", "set", model, "production", "1").code == 0
    return model


FORMS = [
    ("{m}", 2),
    ("{m}@latest", 2),
    ("{m}:latest", 2),
    ("{m}@1", 1),
    ("{m}:1", 1),
    ("default/{m}@production", 1),
    ("namespaces/default/models/{m}@production", 1),
    ("namespaces/default/models/{m}/versions/2", 2),
    ("namespaces/default/models/{m}/aliases/production", 1),
]


@pytest.mark.parametrize(("form", "number"), FORMS)
def test_in_every_command(cli: Run, model: str, form: str, number: int, tmp_path: Path) -> None:
    """
    The same text means the same version in every command: the model alone and latest are the newest that is READY.
    """
    text, name = form.format(m=model), f"namespaces/default/models/{model}/versions/{number}"
    assert name in cli("versions", "get", text).out
    assert name in cli("versions", "pull", text, str(tmp_path / "copy")).out
    assert name in cli("deployments", "create", new_id("d"), text, "--environment", "x").out
    # Found, and then only to be had where there is CloudFront.
    assert "SIGNER_LACKS" in cli("assets", "url", text).err
    assert name in cli("versions", "create", model, "--parent-version", text).out
    listed = cli("evaluations", "list", text)
    assert (listed.code, listed.err) == (0, "no results\n")
    # What a change is of has to be said; and a word alone is an alias where the model is said already.
    if text != model:
        assert "a=b" in cli("versions", "update", text, "--label", "a=b").out
        moved = cli("aliases", "set", model, "candidate", text)
        assert (moved.code, name in moved.out) == (0, True)


@pytest.mark.parametrize(("text", "number"), [("2", 2), ("latest", 2), ("production", 1)])
def test_of_an_alias(cli: Run, model: str, text: str, number: int) -> None:
    """
    Where the model is said already, a number, an alias or latest is enough.
    """
    assert f"{model}/versions/{number}" in cli("aliases", "set", model, "candidate", text).out
    again = cli("aliases", "set", model, "candidate", "1", "--expect", text)
    assert (again.code, f"{model}/versions/1" in again.out) == (0, True)


def test_of_another_model(cli: Run, model: str) -> None:
    """
    An alias of a model does not point at a version of another.
    """
    refused = cli("aliases", "set", model, "candidate", "other@1")
    assert (refused.code, "other@1 is not a version of namespaces/default/models/" in refused.err) == (1, True)


@pytest.mark.parametrize("command", [["update", "--stage", "x"], ["finalize"], ["fail", "broken"]])
def test_changes_say_which(cli: Run, model: str, command: list[str]) -> None:
    """
    A command that changes a version takes no model alone: which one has to be said.
    """
    verb, *rest = command
    done = cli("versions", verb, model, *rest)
    assert done.code == 2
    assert f"'{model}' names no version: write MODEL@3, MODEL@production, MODEL@latest or the full name" in done.err


@pytest.mark.parametrize("text", ["m@", "@3", "m:production", ""])
@pytest.mark.parametrize("command", [["versions", "get"], ["versions", "pull"], ["evaluations", "list"]])
def test_one_error(cli: Run, command: list[str], text: str, tmp_path: Path) -> None:
    """
    What is no version is told in the same words everywhere.
    """
    done = cli(*command, text, *([str(tmp_path)] if command[1] == "pull" else []))
    assert done.code == 2
    assert f"{text!r} is not a version: write MODEL@3, MODEL@production, MODEL@latest or the full name" in done.err


def test_nothing_is_ready(cli: Run) -> None:
    """
    The error of a model without a READY version differs from that of a missing model.
    """
    model = new_id("m")
    cli("models", "create", model)
    assert "has no READY version" in cli("versions", "get", model).err
    assert "MODEL_NOT_FOUND" in cli("versions", "get", f"{model}x@latest").err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["models", "get", "bad name!"],
            "the model 'bad name!' has ' ', '!': only letters, digits and . _ - may be in it",
        ),
        (["namespaces", "get", "a:b"], "the namespace 'a:b' has ':': only"),
        (["versions", "get", "m\u00e9@1"], "the model 'm\\xe9' has '\\xe9': only"),
        (["versions", "list", "a/b/c"], "parent: must be namespaces/{namespace}/models/{model}"),
        (["deployments", "get", "edge 1"], "the deployment 'edge 1' has ' ': only"),
        (["aliases", "get", "m", "x!"], "the alias 'x!' has '!': only"),
    ],
)
def test_bad_names(cli: Run, arguments: list[str], said: str) -> None:
    """
    An error names the characters that may not be in a name, and the part that has them.
    """
    done = cli(*arguments)
    assert done.code != 0
    assert said in done.err
