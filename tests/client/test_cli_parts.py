"""
The parts of the command line that need no server: names, tables, bars.
"""

from __future__ import annotations

import io
import json
import sys
from typing import cast

import pytest

from modelyard.cdn.v1 import assets_pb2
from modelyard.cli.names import VersionRef, model_name, split_model
from modelyard.cli.output import Column, Output, escape_unencodable, table
from modelyard.cli.parallel import StoppedError, Total
from modelyard.cli.parsing import duration
from modelyard.cli.progress import ProgressBar, amount, span


class Terminal(io.StringIO):
    """
    A stream that says it is a terminal.
    """

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("resnet50", "namespaces/default/models/resnet50"),
        ("resnet50.a1_in1k", "namespaces/default/models/resnet50.a1_in1k"),
        ("team/net", "namespaces/team/models/net"),
        ("namespaces/team/models/net", "namespaces/team/models/net"),
    ],
)
def test_model_names(text: str, name: str) -> None:
    """
    Short names are filled up, full ones stay.
    """
    assert model_name(text) == name
    assert split_model(text) == tuple(name.split("/models/"))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("m@3", "namespaces/default/models/m/versions/3"),
        ("team/m@production", "namespaces/team/models/m/aliases/production"),
        ("namespaces/team/models/m@7", "namespaces/team/models/m/versions/7"),
        ("m:3", "namespaces/default/models/m/versions/3"),
        ("m", "namespaces/default/models/m"),
        ("team/m@latest", "namespaces/team/models/m"),
        ("m:latest", "namespaces/default/models/m"),
        ("namespaces/team/models/m", "namespaces/team/models/m"),
        ("namespaces/team/models/m/versions/7", "namespaces/team/models/m/versions/7"),
        ("namespaces/team/models/m/aliases/x", "namespaces/team/models/m/aliases/x"),
    ],
)
def test_version_names(text: str, name: str) -> None:
    """
    A number is a version, a word an alias; latest and the model alone are its newest version.
    """
    ref = VersionRef.parse(text)
    assert (ref.name, ref.newest, ref.bare) == (name, name.endswith("/m"), text.endswith("m"))


@pytest.mark.parametrize("text", ["", "@3", "m@", "m:", ":3", "m:production"])
def test_names_of_no_version(text: str) -> None:
    """
    What names no version is refused, with what would.
    """
    with pytest.raises(ValueError, match="is not a version: write MODEL@3, MODEL@production, MODEL@latest or "):
        VersionRef.parse(text)


def test_tables() -> None:
    """
    Columns are as wide as they need to be; numbers stand right; no line ends in spaces.
    """
    lines = table(["NAME", "SIZE"], [["a", "1"], ["longer", "1,000"], ["b", ""]], [False, True])
    assert lines == ["NAME     SIZE", "a           1", "longer  1,000", "b"]


@pytest.mark.parametrize(
    ("number", "unit", "text"),
    [
        (0, "B", "0 B"),
        (1023, "B", "1023 B"),
        (1536, "B", "1.5 KiB"),
        (5 << 30, "B", "5.0 GiB"),
        (3 << 40, "B", "3.0 TiB"),
        (1556, "models", "1,556 models"),
    ],
)
def test_amounts(number: int, unit: str, text: str) -> None:
    """
    Numbers read as people write them.
    """
    assert amount(number, unit) == text


def test_a_bar_on_a_terminal_only() -> None:
    """
    The bar is drawn on a terminal, ends with a line break, and leaves other streams alone.
    """
    for stream, drawn in ((Terminal(), True), (io.StringIO(), False)):
        with ProgressBar("storing x", stream=stream) as progress:
            progress(0, 2048)
            progress(2048, 2048)
        shown = stream.getvalue()
        assert ("2.0 KiB of 2.0 KiB" in shown) is drawn
        assert shown.endswith("\n") is drawn


def test_one_bar_for_several() -> None:
    """
    Several transfers share one line with the sum; what was there before says nothing about the speed.
    """
    stream = Terminal()
    with ProgressBar("sending", stream=stream) as bar:
        total = Total(4096, bar)
        first, second = total.part(), total.part()
        first(0, 1024)
        second(2048, 3072)
        first(1024, 1024)
        # Sent again after a break.
        second(1024, 3072)
        second(3072, 3072)
    assert total.done == 4096
    lines = stream.getvalue().rstrip("\n").split("\r")
    assert stream.getvalue().count("\n") == 1
    assert "4.0 KiB of 4.0 KiB" in lines[-1]
    assert bar._first == 2048


def test_transfers_that_are_stopped() -> None:
    """
    Each of them learns it with its next chunk.
    """
    total = Total(10, ProgressBar("sending", stream=io.StringIO()))
    tell = total.part()
    tell(1, 10)
    total.stop()
    with pytest.raises(StoppedError):
        tell(2, 10)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (99, "99 s"), (150, "2 min"), (5400, "90 min"), (12000, "3 h 20 min")]
)
def test_spans(seconds: float, text: str) -> None:
    """
    Times read as people write them.
    """
    assert span(seconds) == text


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("30m", 1800), ("12h", 43200), ("7d", 604800)])
def test_durations(text: str, seconds: int) -> None:
    """
    Times are given in the unit that suits.
    """
    assert duration(text).seconds == seconds


def test_a_bar_of_nothing() -> None:
    """
    Nothing to do is done at once.
    """
    stream = Terminal()
    with ProgressBar("storing x", stream=stream) as progress:
        progress(0, 0)
    assert "0 B of 0 B" in stream.getvalue()


class Console(io.TextIOWrapper):
    """
    A console of some encoding, or a file.
    """

    def __init__(self, encoding: str, terminal: bool) -> None:
        super().__init__(io.BytesIO(), encoding)
        self.terminal = terminal

    def isatty(self) -> bool:
        """
        Whether it is a console.
        """
        return self.terminal

    def written(self) -> bytes:
        """
        What is there.
        """
        self.flush()
        return cast(io.BytesIO, self.buffer).getvalue()


ACTIVE = "a\x1b[2J\x1b]0;t\x07\x9b1m\u202eb\nname  fake\u2028\x7f"


def test_nothing_moves_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    """
    What somebody has written into a field is one line on a terminal, and moves or colours nothing; words in any script,
    and emoji, stay as they are.
    """
    asset = assets_pb2.Asset(name="assets/x", media_type=ACTIVE, warnings=["数 👩\u200d💻 é"])
    for output in (Output(json=False), Output(json=True)):
        output.one(asset, [("type", asset.media_type), ("warnings", asset.warnings[0]), (ACTIVE, "path")])
        output.many([asset], [Column("TYPE", lambda each: each.media_type)], "none")
        output.line(asset, asset.media_type)
        output.note(asset.media_type)
        printed = capsys.readouterr()
        assert not set(ACTIVE) & set("\x1b\x07\x9b\u202e\u2028\x7f") & set(printed.out + printed.err)
        assert "数 👩\u200d💻 é" in printed.out
        if output.json:
            assert [json.loads(line)["mediaType"] for line in printed.out.splitlines()] == [ACTIVE] * 3
        else:
            assert len(printed.out.splitlines()) == 3 + 2 + 1
            assert "\\x1b[2J" in printed.out


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
@pytest.mark.parametrize("as_json", [False, True])
def test_consoles_without_every_character(monkeypatch: pytest.MonkeyPatch, encoding: str, as_json: bool) -> None:
    """
    A console of whatever encoding shows escapes for what it does not have; JSON is the same JSON there.
    """
    console = Console(encoding, terminal=True)
    monkeypatch.setattr(sys, "stdout", console)
    escape_unencodable()
    Output(as_json).one(assets_pb2.Asset(media_type="数 🚀 é"), [("type", "数 🚀 é")])
    said = console.written().decode(encoding)
    if as_json:
        assert json.loads(said)["mediaType"] == "数 🚀 é"
    elif encoding == "utf-8":
        assert said == "type  数 🚀 é\n"
    else:
        assert said.startswith("type  \\u6570 \\U0001f680 ")


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_documents(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    """
    A document goes into a file as it is, whatever the console's encoding; on a terminal it moves nothing.
    """
    text = f"数\r\n{ACTIVE}\n"
    for terminal in (False, True):
        console = Console(encoding, terminal)
        monkeypatch.setattr(sys, "stdout", console)
        escape_unencodable()
        Output(json=False).document(text)
        if terminal:
            assert not set(b"\x1b\x07\x7f") & set(console.written())
        else:
            assert console.written() == text.encode()
