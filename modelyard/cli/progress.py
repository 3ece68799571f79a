"""
A progress bar, drawn on terminals only.
"""

from __future__ import annotations

import shutil
import sys
import time
from types import TracebackType
from typing import ClassVar, TextIO

from modelyard._deprecated import aliases

_INTERVAL = 0.1
_BAR = 24


class ProgressBar:
    """
    A progress bar with speed and remaining time; a `ProgressCallback` for `Client.upload_file` and
    `Client.download_file`.

    Args:
        title: text before the bar.
        unit: "B" for bytes, otherwise the plural of what is counted.
        stream: output; nothing is drawn unless it is a terminal.

    Example:
        with ProgressBar("uploading weights.onnx") as progress:
            yard.upload_file("weights.onnx", progress=progress)
    """

    #: Whether bars are drawn; False with --quiet.
    wanted: ClassVar[bool] = True

    def __init__(self, title: str, *, unit: str = "B", stream: TextIO | None = None) -> None:
        self._title = title
        self._unit = unit
        self._stream = sys.stderr if stream is None else stream
        self._shown = self.wanted and self._stream.isatty()
        self._began = self._drawn = time.monotonic()
        # Done before the start, such as by an earlier transfer: excluded from the speed.
        self._first: int | None = None
        self._line = ""

    def __call__(self, done: int, total: int) -> None:
        """
        Show that *done* of *total* is done.
        """
        if not self._shown:
            return
        self._first = done if self._first is None else self._first
        now = time.monotonic()
        if now - self._drawn >= _INTERVAL or done >= total:
            self._drawn = now
            self._draw(done, total, now - self._began)

    def found(self, count: int) -> None:
        """
        Exclude *count* units that were done before from the speed.
        """
        self._first = (self._first or 0) + count

    def _draw(self, done: int, total: int, seconds: float) -> None:
        filled = _BAR if done >= total else _BAR * done // max(total, 1)
        bar = "█" * filled + "·" * (_BAR - filled)
        speed = (done - (self._first or 0)) / seconds if seconds > 0 else 0.0
        rest = f", {span((total - done) / speed)} left" if speed > 0 and done < total else ""
        counts = f"{amount(done, self._unit)} of {amount(total, self._unit)}"
        line = f"{self._title} {bar} {counts}, {amount(int(speed), self._unit)}/s{rest}"
        line = line[: shutil.get_terminal_size().columns - 1]
        self._stream.write("\r" + line.ljust(len(self._line)))
        self._stream.flush()
        self._line = line

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._line:
            self._stream.write("\n")
            self._stream.flush()


def span(seconds: float) -> str:
    """
    A duration for people: "40 s", "12 min", "3 h 20 min".
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def amount(number: int, unit: str) -> str:
    """
    An amount for people: "1.4 GiB", "1,556 models".
    """
    if unit != "B":
        return f"{number:,} {unit}"
    size = float(number)
    for prefix in ("", "Ki", "Mi", "Gi"):
        if abs(size) < 1024:
            return f"{size:.0f} B" if not prefix else f"{size:.1f} {prefix}B"
        size /= 1024
    return f"{size:.1f} TiB"


__getattr__ = aliases(__name__, {"Progress": ("modelyard.cli.progress.ProgressBar", ProgressBar)})
