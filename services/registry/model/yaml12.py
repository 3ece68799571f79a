"""
YAML 1.2 (https://yaml.org/spec/1.2.2/) as the Hugging Face Hub reads it: `yes` and `on` are text, and a tab separates
like a space wherever it does not indent.

The parser is ruamel.yaml's, whose scanner takes a tab for an error outside of quotes. Nodes keep their positions in the
text, so that a caller can change a part of it and leave the rest alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final

import yaml
from ruamel.yaml import YAML, error
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError
from ruamel.yaml.resolver import VersionedResolver
from ruamel.yaml.scanner import Scanner, ScannerError

__all__ = ["MappingNode", "Node", "ScalarNode", "SequenceNode", "YamlError", "below", "compose", "scalar", "write"]

#: Levels of mappings and lists.
MOST_DEPTH: Final = 100
_BLANK: Final = " \t"
_BREAKS: Final = "\r\n\x85\u2028\u2029"
_TAG: Final = "tag:yaml.org,2002:"
_MOST_EXACT: Final = 2**53
_BASES: Final = {"0x": 16, "0o": 8, "0b": 2}


class YamlError(Exception):
    """
    What is wrong with a text.

    Args:
        line: in which it is found, from 0.
        message: what it is.
    """

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


class _Scanner(Scanner):
    """
    Tabs are white space, except in the indentation of a block (YAML 1.2.2, sections 6.1 and 6.2).
    """

    def scan_to_next_token(self) -> None:
        """
        Pass over white space, comments and line breaks.
        """
        reader = self.reader
        if len(self.indents) + self.flow_level > MOST_DEPTH:
            # Each token looks at every level: the time for a text of brackets is the square of its length.
            raise ScannerError(None, None, f"is nested more than {MOST_DEPTH} deep", reader.get_mark())
        if reader.index == 0 and reader.peek() == "\ufeff":
            reader.forward()
        while True:
            before = reader.buffer[reader.pointer - reader.column : reader.pointer]
            while reader.peek() in _BLANK:
                before += reader.peek()
                reader.forward()
            if reader.peek() == "#":
                while reader.peek() not in "\0" + _BREAKS:
                    reader.forward()
            if not self.scan_line_break():
                break
            if not self.flow_level:
                self.allow_simple_key = True
        if "\t" in before and not before.strip(_BLANK) and not self.flow_level and reader.peek() != "\0":
            raise ScannerError(None, None, "a tab cannot indent: use spaces", reader.get_mark())

    def scan_plain_spaces(self, indent: Any, start_mark: Any) -> Any:
        """
        The white space behind a word of a plain scalar.
        """
        reader, length = self.reader, 0
        while reader.peek(length) in _BLANK:
            length += 1
        found = reader.prefix(length)
        if reader.peek(length) in _BREAKS:
            # Not a part of the value.
            reader.forward(length)
        elif "\t" in found:
            reader.forward(length)
            return [found]
        return super().scan_plain_spaces(indent, start_mark)


def compose(text: str) -> Node | None:
    """
    The root of a text of one document; None if it holds nothing.

    Raises:
        YamlError: it is not YAML 1.2.
    """
    parser = YAML(typ="safe", pure=True)
    parser.Scanner = _Scanner
    try:
        root: Node | None = parser.compose(text)
    except error.MarkedYAMLError as wrong:
        mark = wrong.problem_mark or wrong.context_mark
        raise YamlError(mark.line if mark else 0, wrong.problem or "is not YAML") from None
    except ReaderError as wrong:
        line = text.count("\n", 0, wrong.position)
        raise YamlError(line, f"the character U+{wrong.character:04X} is not allowed in YAML") from None
    except RecursionError:
        raise YamlError(0, "is nested too deep") from None
    except (error.YAMLError, ValueError) as wrong:
        raise YamlError(0, f"is not YAML: {next(iter(str(wrong).splitlines()), '')}") from None
    return root


def scalar(node: ScalarNode) -> str | int | float | bool | None:
    """
    A scalar as a value of JSON. What JSON has no type for (dates, infinities, very large numbers) becomes its text.
    """
    text: str = node.value
    kind = (node.tag or "").removeprefix(_TAG)
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    try:
        found = _number(kind, text.replace("_", "").lower())
    except ValueError:
        return text
    return text if found is None else found


def _number(kind: str, text: str) -> int | float | None:
    if kind == "int":
        sign, digits = (-1, text[1:]) if text.startswith("-") else (1, text.removeprefix("+"))
        base = _BASES.get(digits[:2], 10)
        value = sign * int(digits[2:] if base != 10 else digits, base)
        return value if abs(value) <= _MOST_EXACT else None
    if kind == "float" and math.isfinite(number := float(text)):
        return number
    return None


class _Dumper(yaml.SafeDumper):
    """
    What both versions of YAML read alike. PyYAML, which many readers of cards use, quotes text that YAML 1.1 would take
    for something else; this does so for YAML 1.2, too.
    """


_RESOLVER: Final = VersionedResolver(version=(1, 2))


def _text(dumper: _Dumper, text: str) -> yaml.Node:
    style = "|" if "\n" in text else None
    if str(_RESOLVER.resolve(ScalarNode, text, (True, False))) != f"{_TAG}str":
        style = "'"
    return dumper.represent_scalar(f"{_TAG}str", text, style=style)


_Dumper.add_representer(str, _text)


def write(key: str, value: Any) -> str:
    """
    A key and its value as lines of a block mapping.
    """
    text: str = yaml.dump(
        {key: value}, Dumper=_Dumper, allow_unicode=True, default_flow_style=False, sort_keys=False, width=10_000
    )
    return text


def below(node: Node) -> Iterator[int]:
    """
    The identity of *node* and of every node below it: one that is below two others has an anchor and an alias.
    """
    waiting, seen = [node], set()
    while waiting:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield id(each)
        if isinstance(each, MappingNode):
            waiting += [inner for pair in each.value for inner in pair]
        elif isinstance(each, SequenceNode):
            waiting += each.value
