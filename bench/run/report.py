"""
What a run gave: for machines (JSON, CSV, JUnit), for people, and to look at.
"""

from __future__ import annotations

import csv
import html
import io
import json
import sys
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pygal  # type: ignore[import-untyped]
from pygal.style import CleanStyle  # type: ignore[import-untyped]

from bench.run.verdict import shown

# Importing pygal adds a finder without find_spec, which the import system ignores and pytest does not.
sys.meta_path[:] = [finder for finder in sys.meta_path if hasattr(finder, "find_spec")]

_OBJECTIVE = ("objective", "measured", "bound", "")
_CLASS = {"PASS": "verdict held", "FAIL": "verdict missed", "NO VERDICT": "verdict"}
_COLUMNS = ("calls", "errors", "p50", "p90", "p95", "p99", "p99.9", "max")
_CSS = """
body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.2rem .7rem;border-bottom:1px solid #ddd;text-align:right}
td:first-child,th:first-child{text-align:left}.missed{color:#b00020;font-weight:600}.held{color:#1a7f37}.verdict{font-size:1.4rem}
svg{max-width:100%;height:auto}code{background:#f4f4f4;padding:.1rem .3rem}
"""


def write(folder: Path, report: Mapping[str, Any]) -> None:
    """
    Write report.json, report.md, report.html, the charts as SVG files, scenarios.csv, seconds.csv and junit.xml into
    *folder*.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    (folder / "report.md").write_text(markdown(report))
    (folder / "junit.xml").write_text(junit(report))
    (folder / "scenarios.csv").write_text(scenarios_csv(report))
    (folder / "seconds.csv").write_text(_csv(("second", "calls", "errors", "p50", "p95", "p99"), report["windows"]))
    drawn = charts(report)
    for name, svg in drawn.items():
        (folder / f"{name}.svg").write_text(svg)
    (folder / "report.html").write_text(page(report, drawn))


def markdown(report: Mapping[str, Any]) -> str:
    """
    The report as text.
    """
    head = [
        f"# {report['title']}",
        "",
        f"**{report['verdict']}**: {report['product']}",
        "",
        *(f"* {fact}" for fact in report["facts"]),
        "",
        f"    {report['command']}",
        "",
    ]
    return "\n".join(
        [
            *head,
            "## Verdict",
            "",
            *_table(_OBJECTIVE, [_verdict(each) for each in report["sla"]]),
            "",
            "## Targets (told, not judged)",
            "",
            *_table(_OBJECTIVE, [_verdict(each) for each in report["targets"]]),
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
            ("Verdict", _OBJECTIVE, [_verdict(each) for each in report["sla"]]),
            ("Targets (told, not judged)", _OBJECTIVE, [_verdict(each) for each in report["targets"]]),
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
    title, verdict = html.escape(report["title"]), f"{report['verdict']}: {report['product']}"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_CSS}</style>'
        f'<h1>{title}</h1><p class="{_CLASS[report["verdict"]]}">{html.escape(verdict)}</p>'
        f"<ul>{facts}</ul><p><code>{html.escape(report['command'])}</code></p>{tables}"
        f"<h2>Over time</h2>{''.join(drawn.values())}</html>\n"
    )


def junit(report: Mapping[str, Any]) -> str:
    """
    The verdict for pipelines: a test case for each objective; one without a verdict is skipped. A machine that others
    used is an error of the whole.
    """
    cases = report["sla"]
    missed = [each for each in cases if each["held"] is False]
    skipped = [each for each in cases if each["held"] is None]
    refused = report["verdict"] == "NO VERDICT"
    suite = ET.Element("testsuite", name=f"bench.{report['profile']}", tests=str(len(cases) + 1))
    suite.attrib |= {"failures": str(len(missed)), "skipped": str(len(skipped)), "errors": str(int(refused))}
    kept = ET.SubElement(suite, "properties")
    for name in ("product", "machine", "command", "verdict"):
        ET.SubElement(kept, "property", name=name, value=str(report[name]))
    whole = ET.SubElement(suite, "testcase", classname="bench", name="verdict")
    if refused:
        ET.SubElement(whole, "error", message="no verdict: see the facts of the report")
    for each in cases:
        name, measured, bound, said = _verdict(each)
        case = ET.SubElement(suite, "testcase", classname="bench.sla", name=name)
        if each["held"] is not True:
            ET.SubElement(
                case, "skipped" if each["held"] is None else "failure", message=f"{measured}, {bound}, {said}"
            )
    return ET.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def scenarios_csv(report: Mapping[str, Any]) -> str:
    """
    A row for each scenario: calls, errors, percentiles in milliseconds (empty for those of too few calls).
    """
    rows = [
        {
            "scenario": name,
            "calls": found["calls"],
            "errors": found["calls"] - found["codes"].get("OK", 0),
            **found["ms"],
        }
        for name, found in report["scenarios"].items()
    ]
    return _csv(("scenario", *_COLUMNS), rows)


def _csv(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def charts(report: Mapping[str, Any]) -> dict[str, str]:
    """
    The charts as SVG, by name.
    """
    windows = report["windows"]
    found = {
        "latency": _lines(
            "Latency by the second, ms",
            {
                name: [(each["second"], each[name]) for each in windows if each[name] is not None]
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
    titles = {
        "cores": "Cores in use, and those that other processes took",
        "memory": "Memory, MiB",
        "lag": "Event loop, delay in ms",
        "pool": "Pool, %",
    }
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
