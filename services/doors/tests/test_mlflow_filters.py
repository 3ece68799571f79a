"""
MLflow's filters, names and tags, without a server.
"""

from __future__ import annotations

import pytest

from services.chassis.checks import Checks
from services.chassis.errors import InvalidArgument
from services.doors.model.mlflow.filters import models_filter, order, versions_filter
from services.doors.model.mlflow.names import checked_name, model_id, name_of
from services.doors.model.mlflow.tags import LOCATION, label_of, stored, tags_of

PROMPT = "tag.`mlflow.prompt.is_prompt`"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("  ", ""),
        ("name = 'wine'", 'name = "wine"'),
        ('name != "wine"', 'name != "wine"'),
        ("name IN ('a', 'b')", '(name = "a" OR name = "b")'),
        ("name not in ('a', 'b')", '(name != "a" AND name != "b")'),
        ("tags.team = 'x' AND tag.`a b` like '%y'", 'labels."team" = "x" AND like(labels."a b", "%y")'),
        (
            "tag.\"k\" ilike 'Y%' and tags.mlflow.source = 'z'",
            'ilike(labels."k", "Y%") AND labels."mlflow.source" = "z"',
        ),
        ("attribute.name = 'wine'", 'name = "wine"'),
        ("tags.k = 'it''s'", 'labels."k" = "it\'s"'),
        ("tags.k = 'a \"quoted\" \\ text'", 'labels."k" = "a \\"quoted\\" \\\\ text"'),
    ],
)
def test_filters_of_models(text: str, expected: str) -> None:
    """
    Each form of a clause is rendered in the registry's language, with its quotes escaped.
    """
    assert models_filter(text) == expected


def test_models_without_the_prompt_tag_are_no_prompts() -> None:
    """
    The clause that every client appends holds for models without the tag; another tag that is missing never compares.
    """
    label = 'labels."mlflow.prompt.is_prompt"'
    assert models_filter(f"{PROMPT} != 'true'") == f'NOT {label} = "true"'
    assert models_filter(f"{PROMPT} = 'false'") == f'NOT {label} != "false"'
    assert models_filter(f"{PROMPT} = 'true'") == f'{label} = "true"'
    assert models_filter("tag.other != 'true'") == 'labels."other" != "true"'
    assert versions_filter(f"{PROMPT} != 'true'") == f'{label} != "true"'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name = 'wine'", 'model = "wine"'),
        ("run_id IN ('a','b')", '(run = "a" OR run = "b")'),
        ("run_id != 'a'", '(run != "a" AND run != "")'),
        ("source_path LIKE 's3:%'", 'like(source, "s3:%")'),
        ("version_number >= 3 AND version_number <> 5", "number >= 3 AND number != 5"),
        ("name LIKE '100\\%'", 'like(model, "100\\\\\\\\%")'),
    ],
)
def test_filters_of_versions(text: str, expected: str) -> None:
    """
    Versions are found by model, run, source and number; what has no run is unequal to none.
    """
    assert versions_filter(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "name",
        "name =",
        "name = wine",
        "name = 'wine' OR name = 'b'",
        "name = 'wine' AND",
        "AND name = 'wine'",
        "name = 'a' name = 'b'",
        "(name = 'a')",
        "name = 'never closed",
        "name > 'a'",
        "name = 3",
        "name IN ()",
        "name IN ('a'",
        "name IN ('a',)",
        "name IN 'a'",
        "NOT name = 'a'",
        "tags.k IN ('a')",
        "tags.k = 3",
        "other.k = 'a'",
        "colour = 'red'",
        "version_number = 3",
        "name = 'a'; DROP TABLE models",
        "name = 'a' --",
        "tags.`never closed = 'a'",
        "name LIKE ILIKE 'a'",
        "name = 'a' AND " * 1000 + "name = 'a'",
    ],
)
def test_what_does_not_parse_is_rejected(text: str) -> None:
    """
    Every other text is an error, and never another search.
    """
    with pytest.raises(InvalidArgument):
        models_filter(text)


def test_names_that_are_no_ids_are_found_by_id() -> None:
    """
    A name that is no id is compared by the id made of it; a pattern is compared with it where an id was made of one.
    """
    assert models_filter("name = 'two words'") == f'name = "{model_id("two words")}"'
    assert models_filter("name LIKE 'two w%'") == (
        '(like(name, "two w%") OR (like(name, "%-____________") AND like(display_name, "two w%")))'
    )


def test_rendered_filters_are_of_the_registry() -> None:
    """
    The registry parses what is rendered, whatever a value or a key has.
    """
    from services.registry.model.search.filter_fields import version_field_of
    from services.registry.model.search.filter_parser import parse_filter

    checks = Checks()
    for value in ("plain", "two words", 'a "b" \\', "\\", "%", "ä", "'", ") OR name != (", "AND"):
        quoted = value.replace("'", "''")
        for sign in ("=", "!=", "LIKE", "ILIKE"):
            text = f"name {sign} '{quoted}' AND tags.`any {value.replace('`', '')} key` {sign} '{quoted}'"
            assert parse_filter(checks, "filter", models_filter(text)) is not None, text
            assert parse_filter(checks, "filter", versions_filter(text), version_field_of) is not None, text
    checks.raise_if_any()


def test_orders() -> None:
    """
    Orders are rendered with their direction; a field comes once, and an unknown one is an error.
    """
    fields = {"name": "model", "version_number": "number"}
    assert order(["name", "version_number DESC", "name desc"], fields) == "model, number desc"
    assert order([], fields) == ""
    for wrong in ("stage", "name sideways", "name,version_number", "", "name; drop"):
        with pytest.raises(InvalidArgument):
            order([wrong], fields)


def test_names_and_ids() -> None:
    """
    A name that can be an id is one; every other has an id of its own, from which the display name gives it back.
    """
    assert model_id("resnet-50.v2") == "resnet-50.v2"
    for name in ("two words", "two  words", "ÄÖ", "-x", "..", "a" * 200, "日本"):
        found = model_id(name)
        assert found != name
        assert model_id(found) == found
        assert name_of(found, name) == name
    assert len({model_id(each) for each in ("two words", "two-words", "two  words")}) == 3
    # A display name that somebody gave is no name.
    assert name_of("resnet", "ResNet 50") == "resnet"


@pytest.mark.parametrize("name", ["", " ", "a/b", "a:b", "a\nb", "a" * 257])
def test_names_that_no_model_can_have(name: str) -> None:
    """
    MLflow's rules for names are checked, and a bound on their length.
    """
    with pytest.raises(InvalidArgument):
        checked_name(name)


def test_long_tags_are_annotations() -> None:
    """
    A value of more than 256 characters is kept whole, and its label compares equal to that of the same value only.
    """
    tags = {"short": "x" * 256, "long": "x" * 257, "empty": ""}
    labels, annotations = stored(tags)
    assert annotations == {"long": "x" * 257}
    assert labels["long"] == label_of("x" * 257) != label_of("x" * 258)
    assert {each["key"]: each["value"] for each in tags_of(labels, {**annotations, LOCATION: "s3://b"})} == tags
