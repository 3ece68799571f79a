"""
Cards as people publish them: an update changes the lines that it is about, and no others.
"""

from __future__ import annotations

import pytest

from services.chassis.checks import Checks
from services.registry.model.cards import SECTIONS, CardDraft
from services.registry.model.frontmatter import ParsedCard, parse_card

SHAPES = {
    "a tab behind a value, and one before it": "---\nlicense: apache-2.0\t\ntags:\t\n- a\nlibrary_name:\tx\n---\n# T\n",
    "a line of tabs, and a tab before a comment": "---\nlicense: mit\t# as is\n\t\ntags:\n- a\t\n---\nText\n",
    "CRLF": "---\r\nlicense: mit\r\ntags:\r\n- a\r\n---\r\n# T\r\nText\r\n",
    "comments": "---\n# For guidelines see docs\nlicense: mit  # ours\n\n# tags\ntags: [a, b]  # two\n# end\n---\nText",
    "emoji": "---\ntitle: \"Demo 🔥\"\nemoji: 🔥\nlicense: mit\ncolorFrom: 'blue'\n---\nText 🔥\n",
    "model-index": "---\nlicense: mit\nmodel-index:\n- name: m\n  results:\n  - task: {type: t, name: T}\n"
    "    dataset:\n"
    "      name:   GLUE\n      type: glue\n    metrics:\n    - type: accuracy\n      value: 0.90\n---\nText\n",
    "lists of lists": "---\nwidget:\n- - text: a\n  - text: b\n-   - [1, 2]\n    - 3\nlicense: mit\n---\nText\n",
    "no newline at the end": "---\nlicense: mit\nlanguage: en\n---",
    "a byte order mark and blank lines before it": "\ufeff\n  \n---\nlicense: mit\n---\nText\n",
    "anchors": "---\nbase: &base {a: 1}\nlicense: mit\nother: *base\nmore:\n  <<: *base\n  b: 2\n---\nText\n",
    "block text": "---\nlicense: mit\nwidget:\n- text: |+\n    with a space \n    # no comment\n\n"
    "- text: >-\n    folded\n    text\nz: 1\n---\nText\n",
    "a megabyte": "---\nlicense: mit\ntags:\n- a\n---\n" + "# Text\r\nmore\n" * 70_000,
    "text that YAML 1.1 takes for something else": "---\ncountry: NO\nlicense: mit\nswitch: on\n"
    "version: 1.10\nday: 2024-01-31\n---\n",
    "keys in quotes": "---\n\"license\": mit\n'tags' : [a]\n---\nText\n",
}


def imported(content: str) -> ParsedCard:
    """
    What a card says; it has to be one.
    """
    checks = Checks()
    parsed = parse_card(checks, "content", content, SECTIONS)
    checks.raise_if_any()
    return parsed


def draft(content: str) -> CardDraft:
    """
    A card as it is kept.
    """
    parsed = imported(content)
    return CardDraft(**parsed.own, markdown=parsed.markdown, extra=parsed.extra, front=parsed.front)


def updated(before: CardDraft, **fields: object) -> CardDraft:
    """
    A card after an update of these fields.
    """
    return before.updated(CardDraft(**fields), fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", list(SHAPES))
def test_an_update_leaves_every_other_line_alone(shape: str) -> None:
    """
    A new licence replaces one value, its line's comment stays, and the card means what it meant.
    """
    content = SHAPES[shape]
    before = draft(content)
    assert before.front + before.markdown == content
    assert before.license in ("mit", "apache-2.0")
    after = updated(before, license="bsd-3-clause")
    assert after.front + after.markdown == content.replace(before.license, "bsd-3-clause", 1)
    again = imported(after.front + after.markdown)
    assert (again.own["license"], again.extra) == ("bsd-3-clause", before.extra)


@pytest.mark.parametrize("shape", list(SHAPES))
def test_a_new_key_is_a_new_line(shape: str) -> None:
    """
    A new key is appended, with the card's own line endings; nothing else changes.
    """
    before = draft(SHAPES[shape])
    after = updated(before, extra={**before.extra, "pipeline_tag": "yes"})
    end = "\r\n" if shape == "CRLF" else "\n"
    kept = before.front.rpartition("---")
    assert after.front == f"{kept[0]}pipeline_tag: 'yes'{end}---{kept[2]}"
    assert imported(after.front).extra["pipeline_tag"] == "yes"


@pytest.mark.parametrize("shape", list(SHAPES))
def test_a_key_that_goes_takes_its_lines_along(shape: str) -> None:
    """
    Removing a key removes its lines and no others.
    """
    content = SHAPES[shape]
    after = updated(draft(content), license="")
    gone = [line for line in draft(content).front.splitlines(keepends=True) if "license" in line]
    assert len(gone) == 1
    kept = content.replace(gone[0], "", 1)
    # Nothing is left of some, which then are no front matter at all.
    assert after.front + after.markdown in (kept, imported(content).markdown)


def test_an_anchor_that_goes_takes_no_alias_along() -> None:
    """
    When a value with an anchor is replaced, the keys that refer to the anchor keep their values.
    """
    before = draft(SHAPES["anchors"])
    after = updated(before, extra={**before.extra, "base": 5})
    assert imported(after.front).extra == {**before.extra, "base": 5}
    assert "license: mit\n" in after.front


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("---\na: 1\nb: 2\nc: 3\nd: \x01\n---\n", "line 5: the character U+0001"),
        ("\n\n---\na: 1\nb: [1\n---\n", "line 6: "),
        ("---\na:\n\tb: 1\n---\n", "line 3: a tab cannot indent"),
        ("---\r\na: 1\r\na: 2\r\n---\r\n", 'line 3: the key "a" comes twice'),
    ],
)
def test_errors_name_the_line_of_the_card(content: str, words: str) -> None:
    """
    Lines are counted from the beginning of the card, whatever precedes the front matter.
    """
    checks = Checks()
    parse_card(checks, "content", content, SECTIONS)
    with pytest.raises(Exception, match="content") as refused:
        checks.raise_if_any()
    assert words in str(refused.value.__dict__) + str(refused.value)
