"""
The Hugging Face model card format: YAML front matter between lines of three dashes, then Markdown
(https://huggingface.co/docs/hub/model-cards). What was imported is kept to the letter; a change replaces the lines of
the keys that it changes, and leaves all other lines as they are: comments, quotes, anchors, line ends and order.

`license` is the card's own field. The card's prose (intended use, limitations …) has no key in that format: it goes
under `modelyard`, which others ignore. All other keys are the card's `extra`.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from services.chassis.checks import Checks
from services.registry.model import yaml12
from services.registry.model.yaml12 import MappingNode, Node, ScalarNode, SequenceNode

MOST_FRONT = 256 * 1024
_MOST_NODES = 20_000
_MOST_DEPTH = 32
_OWN = "modelyard"
_LICENSE = "license"
_FENCE = re.compile(r"---[ \t]*")
#: Line ends as the Hub's parser has them; others, such as U+2028, are text.
_LINES = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
_BETWEEN = re.compile(r"[ \t]*|#.*")
_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq", "str", "int", "float", "bool", "null", "timestamp")}


class FrontMatterError(Exception):
    """
    An error in a card's front matter, with the line of the card.
    """

    def __init__(self, line: int, message: str) -> None:
        super().__init__(f"line {line}: {message}")


@dataclass(frozen=True, slots=True)
class ParsedCard:
    """
    A card in that format.

    Args:
        front: everything up to and including the line that closes the front matter, to the letter; empty without one.
        markdown: the rest, to the letter.
        own: the prose under `modelyard`, and `license`.
        extra: the other keys, as JSON.
    """

    front: str
    markdown: str
    own: dict[str, str]
    extra: dict[str, Any]


def parse_card(checks: Checks, field: str, content: str, sections: tuple[str, ...]) -> ParsedCard:
    """
    The card in *content*; what is wrong with it is noted on *field*, with the line.

    Args:
        sections: the names of the prose fields.
    """
    try:
        parts = _split(content)
        if len(parts.front.encode()) > MOST_FRONT:
            raise FrontMatterError(1, f"the front matter must be at most {MOST_FRONT:,} bytes")
        own, extra = _split_keys(_Keys(parts).data, sections)
        return ParsedCard(parts.front, parts.markdown, own, extra)
    except FrontMatterError as error:
        checks.add(field, str(error))
        return ParsedCard("", "", {}, {})


def changed_front(front: str, own: Mapping[str, str], extra: Mapping[str, Any], sections: tuple[str, ...]) -> str:
    """
    Front matter that says *own* and *extra*: *front* itself if it does already, else *front* with the lines of the keys
    that say something else replaced.
    """
    parts = _split(front) if front else _Parts("---\n", "", "---\n", "")
    keys = _Keys(parts)
    if _same(_split_keys(keys.data, sections), (dict(own), dict(extra))):
        return front
    wanted: dict[str, Any] = dict(extra)
    if own.get(_LICENSE):
        wanted[_LICENSE] = own[_LICENSE]
    if prose := {name: text for name, text in own.items() if name != _LICENSE and text}:
        wanted[_OWN] = prose
    if not wanted:
        return ""
    changed = {name for name, value in keys.data.items() if name not in wanted or not _same(value, wanted[name])}
    inner = keys.with_values(wanted, changed)
    if not _says(inner, wanted):
        # An alias whose anchor went with the value of another key is written out.
        inner = keys.with_values(wanted, changed | keys.linked)
    for rewritten in (changed, set(keys.data)):
        if not _says(inner, wanted):
            inner = keys.anew(wanted, rewritten)
    return parts.opening + inner + parts.closing


def _says(inner: str, wanted: Mapping[str, Any]) -> bool:
    try:
        return _same(_Keys(_Parts("---\n", inner, "---\n", "")).data, wanted)
    except FrontMatterError:
        return False


@dataclass(frozen=True, slots=True)
class _Parts:
    """
    A card, split into its parts.

    Args:
        opening: up to and including the line that opens the front matter: a byte order mark and blank lines may come
            before it, as the Hub has it.
        inner: its YAML.
        closing: the line that closes it.
        markdown: the rest.
    """

    opening: str
    inner: str
    closing: str
    markdown: str

    @property
    def front(self) -> str:
        """
        The front matter with its fences.
        """
        return self.opening + self.inner + self.closing

    @property
    def line_end(self) -> str:
        """
        The line end of the card's first line.
        """
        return "\r\n" if self.opening.endswith("\r\n") else "\n"


class _Keys:
    """
    The keys of front matter: their values and their lines.
    """

    def __init__(self, parts: _Parts) -> None:
        self._parts = parts
        self._lines = _LINES.findall(parts.inner)
        self._first = len(_LINES.findall(parts.opening)) + 1  # the card's line that the YAML begins with
        self._root = self._compose()
        self.data = _Plain(self._first).mapping(self._root) if self._root is not None else {}

    @property
    def linked(self) -> set[str]:
        """
        The keys that have a node in common with another one: by an anchor here and an alias there.
        """
        pairs = [] if self._root is None else self._root.value
        below = {key.value: set(yaml12.below(value)) for key, value in pairs}
        owners = Counter(node for nodes in below.values() for node in nodes)
        return {name for name, nodes in below.items() if any(owners[node] > 1 for node in nodes)}

    def with_values(self, wanted: Mapping[str, Any], rewritten: Collection[str]) -> str:
        """
        The YAML with the keys *rewritten* set to the values of *wanted* or removed, and new keys at the end.
        """
        found, taken = [], 0
        for name, first, after, value in self._spans():
            found += self._lines[taken:first]
            if name not in rewritten:
                found += self._lines[first:after]
            elif name in wanted:
                found.append(self._replaced(name, self._lines[first:after], value, wanted[name]))
            taken = after
        found += self._lines[taken:]
        missing = [name for name in wanted if name not in self.data]
        return "".join([*found, *(self._written(name, wanted[name]) for name in missing)])

    def anew(self, wanted: Mapping[str, Any], rewritten: Collection[str]) -> str:
        """
        The same for what has no lines of keys ({…}): a line for each, with the values as they were written.
        """
        pairs = [] if self._root is None else self._root.value
        marks = {key.value: (value.start_mark.index, value.end_mark.index) for key, value in pairs}
        names = [*(name for name in self.data if name in wanted), *(name for name in wanted if name not in self.data)]
        return "".join(
            self._written(name, wanted[name])
            if name in rewritten or name not in marks
            else f"{self._written(name, None).partition(': ')[0]}: {self._parts.inner[slice(*marks[name])]}"
            + self._parts.line_end
            for name in names
        )

    def _spans(self) -> list[tuple[str, int, int, Node]]:
        """
        Each key with the first of its lines, the one behind the last, and its value. Comments and blank lines between
        two keys belong to neither.
        """
        if self._root is None or self._root.flow_style:
            return []  # in {…} keys have no lines
        starts = [key.start_mark.line for key, _ in self._root.value] + [len(self._lines)]
        found = []
        for (key, value), first, after in zip(self._root.value, starts, starts[1:], strict=False):
            while after > first + 1 and _BETWEEN.fullmatch(self._lines[after - 1].rstrip("\r\n")):
                after -= 1  # noqa: PLW2901 - the end of this span alone
            found.append((key.value, first, after, value))
        return found

    def _replaced(self, name: str, lines: list[str], old: Node, value: Any) -> str:
        written = self._written(name, value)
        plain = len(lines) == 1 and isinstance(old, ScalarNode) and old.style in (None, "'", '"') and not old.anchor
        if plain and "\n" not in (one := written.rstrip("\r\n")) and not isinstance(value, dict | list):
            # A comment after the value is preserved.
            before, after = lines[0][: old.start_mark.column], lines[0][old.end_mark.column :]
            return before + ("" if before[-1:].isspace() else " ") + one.removeprefix(f"{name}: ") + after
        return written

    def _written(self, name: str, value: Any) -> str:
        return yaml12.write(name, value).replace("\n", self._parts.line_end)

    def _compose(self) -> MappingNode | None:
        try:
            root = yaml12.compose(self._parts.inner)
        except yaml12.YamlError as error:
            raise FrontMatterError(error.line + self._first, str(error)) from None
        if root is not None and not isinstance(root, MappingNode):
            raise FrontMatterError(root.start_mark.line + self._first, "the front matter must be a mapping: key: value")
        return root


def _same(one: Any, other: Any) -> bool:
    # Python takes True for 1; YAML and JSON do not.
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _split(content: str) -> _Parts:
    lines = _LINES.findall(content)
    blank = 0
    while blank < len(lines) and not lines[blank].removeprefix("\ufeff" if blank == 0 else "").strip():
        blank += 1
    if blank == len(lines) or not _is_fence(lines[blank].removeprefix("\ufeff" if blank == 0 else "")):
        return _Parts("", "", "", content)
    first = blank + 1
    for number in range(first, len(lines)):
        if _is_fence(lines[number]):
            cuts = (lines[:first], lines[first:number], [lines[number]], lines[number + 1 :])
            return _Parts(*("".join(cut) for cut in cuts))
    raise FrontMatterError(first, "the front matter that begins here is never closed with a line of three dashes")


def _is_fence(line: str) -> bool:
    return _FENCE.fullmatch(line.rstrip("\r\n")) is not None


class _Plain:
    """
    Nodes as JSON values. What JSON has no type for (dates, infinities, very large numbers) becomes its text.
    """

    def __init__(self, first: int) -> None:
        self._count = 0
        self._first = first

    def mapping(self, node: MappingNode, depth: int = 0) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in node.value:
            if not isinstance(key, ScalarNode):
                raise FrontMatterError(self._line(key), "a key must be a plain word")
            if key.value in found:
                raise FrontMatterError(self._line(key), f'the key "{key.value[:80]}" comes twice')
            found[key.value] = self._value(value, depth + 1)
        return found

    def _value(self, node: Node, depth: int) -> Any:
        self._count += 1
        if self._count > _MOST_NODES:
            raise FrontMatterError(self._line(node), f"has more than {_MOST_NODES:,} values, its aliases spelt out")
        if depth > _MOST_DEPTH:
            raise FrontMatterError(self._line(node), f"is nested more than {_MOST_DEPTH} deep")
        if node.tag not in _TAGS:
            raise FrontMatterError(self._line(node), f"the tag {node.tag} is not one of a card's")
        if isinstance(node, MappingNode):
            return self.mapping(node, depth)
        if isinstance(node, SequenceNode):
            return [self._value(each, depth + 1) for each in node.value]
        assert isinstance(node, ScalarNode)  # noqa: S101 - the third of three kinds
        return yaml12.scalar(node)

    def _line(self, node: Node) -> int:
        return int(node.start_mark.line) + self._first


def _split_keys(data: Mapping[str, Any], sections: tuple[str, ...]) -> tuple[dict[str, str], dict[str, Any]]:
    """
    The card's own prose fields, and the remaining keys. Values not in the format that this module writes remain there.
    """
    own: dict[str, str] = {}
    extra = dict(data)
    if isinstance(data.get(_LICENSE), str) and data[_LICENSE]:
        own[_LICENSE] = extra.pop(_LICENSE)
    prose = data.get(_OWN)
    if (
        isinstance(prose, dict)
        and prose
        and all(name in sections and isinstance(text, str) and text for name, text in prose.items())
    ):
        own |= extra.pop(_OWN)
    return own, extra
