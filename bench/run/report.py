"""
What a run gave: for machines, for people, and to look at.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pygal  # type: ignore[import-untyped]
from pygal.style import CleanStyle  # type: ignore[import-untyped]

from bench.run.verdict import shown

_COLUMNS = ("calls", "errors", "p50", "p90", "p95", "p99", "p99.9", "max")
_CSS = """
body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.2rem .7rem;border-bottom:1px solid #ddd;text-align:right}
td:first-child,th:first-child{text-align:left}.missed{color:#b00020;font-weight:600}.held{color:#1a7f37}
svg{max-width:100%;height:auto}code{background:#f4f4f4;padding:.1rem .3rem}
"""


def write(folder: Path, report: Mapping[str, Any]) -> None:
    """
    Write report.json, report.md, report.html and the charts as SVG files into *folder*.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    (folder / "report.md").write_text(markdown(report))
    drawn = charts(report)
    for name, svg in drawn.items():
        (folder / f"{name}.svg").write_text(svg)
    (folder / "report.html").write_text(page(report, drawn))


def markdown(report: Mapping[str, Any]) -> str:
    """
    The report as text.
    """
    head = [f"# {report['title']}", "", *(f"* {fact}" for fact in report["facts"]), "", f"    {report['command']}", ""]
    return "\n".join(
        [
            *head,
            "## Verdict",
            "",
            *_table(["line", "measured", "asked", ""], [_verdict(each) for each in report["sla"]]),
            "",
            "## What we aim at",
            "",
            *_table(["line", "measured", "asked", ""], [_verdict(each) for each in report["targets"]]),
            "",
            "## Scenarios (milliseconds, from all calls that ended OK)",
            "",
            *_table(["scenario", *_COLUMNS], [_scenario(*each) for each in report["scenarios"].items()]),
            "",
            *(
                []
                if not report["events"]
                else ["## What happened", "", *(f"* {each}" for each in report["events"]), ""]
            ),
            "## Errors",
            "",
            *(_table(["scenario", "code", "calls"], _errors(report)) if _errors(report) else ["None."]),
            "",
        ]
    )


def page(report: Mapping[str, Any], drawn: Mapping[str, str]) -> str:
    """
    The report as one file that loads nothing.
    """
    tables = "".join(
        f"<h2>{title}</h2>{_html(columns, rows)}"
        for title, columns, rows in (
            ("Verdict", ["line", "measured", "asked", ""], [_verdict(each) for each in report["sla"]]),
            ("What we aim at", ["line", "measured", "asked", ""], [_verdict(each) for each in report["targets"]]),
            (
                "Scenarios (milliseconds)",
                ["scenario", *_COLUMNS],
                [_scenario(*each) for each in report["scenarios"].items()],
            ),
            ("Errors", ["scenario", "code", "calls"], _errors(report)),
        )
        if rows
    )
    facts = "".join(f"<li>{html.escape(fact)}</li>" for fact in [*report["facts"], *report["events"]])
    title = html.escape(report["title"])
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_CSS}</style>'
        f"<h1>{title}</h1><ul>{facts}</ul><p><code>{html.escape(report['command'])}</code></p>{tables}"
        f"<h2>Over time</h2>{''.join(drawn.values())}</html>\n"
    )


def charts(report: Mapping[str, Any]) -> dict[str, str]:
    """
    The charts as SVG, by name.
    """
    windows = report["windows"]
    found = {
        "latency": _lines(
            "Latency by the second, ms",
            {
                name: [(each["second"], each[name]) for each in windows if each["calls"]]
                for name in ("p50", "p95", "p99")
            },
        ),
        "throughput": _lines(
            "Calls and users",
            {
                "calls/s": [(each["second"], each["calls"]) for each in windows],
                "errors/s": [(each["second"], each["errors"]) for each in windows],
                "users": [(each["at"], each["users"]) for each in report["steps"]],
            },
        ),
    }
    if len({each["users"] for each in report["steps"]}) > 2:
        found["users"] = _lines(
            "Calls/s against users",
            {"calls/s": [(each["users"], each["rate"]) for each in report["steps"]]},
            "users",
        )
    titles = {"cores": "Cores in use", "memory": "Memory, MiB", "lag": "Event loop, delay in ms", "pool": "Pool, %"}
    for name, title in titles.items():
        if curves := report["resources"].get(name):
            found[name] = _lines(title, curves)
    return found


def _lines(title: str, curves: Mapping[str, Sequence[Sequence[float]]], x_title: str = "seconds") -> str:
    chart = pygal.XY(
        title=title,
        x_title=x_title,
        show_dots=False,
        # It would load a script from another host.
        js=(),
        style=CleanStyle(),
        width=900,
        height=320,
        legend_at_bottom=True,
        explicit_size=True,
        stroke_style={"width": 1.5},
    )
    for name, points in curves.items():
        chart.add(name, [(round(x, 2), round(y, 3)) for x, y in points])
    svg: str = chart.render(is_unicode=True, disable_xml_declaration=True)
    return svg


def _verdict(each: Mapping[str, Any]) -> list[str]:
    measured = "not measured" if each["measured"] is None else f"{shown(each['measured'])} {each['unit']}"
    sign = "≥" if each["better"] == "higher" else "≤"
    word = {True: "ok", False: "MISSED", None: each["note"] or "no verdict"}[each["held"]]
    return [each["name"], measured, f"{sign} {each['required']:,g} {each['unit']}", word]


def _scenario(name: str, found: Mapping[str, Any]) -> list[str]:
    errors = found["calls"] - found["codes"].get("OK", 0)
    shown = [f"{found['ms'][column]:,.1f}" if column in found["ms"] else "" for column in _COLUMNS[2:]]
    return [name, f"{found['calls']:,}", f"{errors:,}", *shown]


def _errors(report: Mapping[str, Any]) -> list[list[str]]:
    return [
        [name, code, f"{count:,}"]
        for name, found in report["scenarios"].items()
        for code, count in sorted(found["codes"].items())
        if code != "OK"
    ]


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        f"| {' | '.join(columns)} |",
        f"|{'|'.join('---' if number == 0 else '---:' for number in range(len(columns)))}|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def _html(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def cell(text: str) -> str:
        kind = {"ok": ' class="held"', "MISSED": ' class="missed"'}.get(text, "")
        return f"<td{kind}>{html.escape(text)}</td>"

    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    return f"<table><tr>{head}</tr>{''.join('<tr>' + ''.join(map(cell, row)) + '</tr>' for row in rows)}</table>"
