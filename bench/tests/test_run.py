"""
What `make bench` reads, adds up and says, on small inputs.
"""

from __future__ import annotations

import csv
import json
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from bench.run import plan, verdict
from bench.run.compare import compare, difference
from bench.run.generators import Call, GeneratorRun, Target, calls_of, config_of
from bench.run.plan import PlanError, Profile, Scenario, Stage
from bench.run.report import charts, junit, markdown, page, write
from bench.run.samples import read
from bench.run.verdict import Line, judge, lines
from bench.run.warmup import Warmed, is_read_there, warm
from bench.run.windows import SHARES, CallStats, Record, Window, enough, merged, recovery, slope

SCENARIO = Scenario("get-cached", {"call": "a.B/Get", "metadata": {"x": "y"}}, "get", 40, "get")


def taken(*ms: float, **codes: int) -> CallStats:
    found = CallStats()
    for each in ms:
        found.add(Call(0, each, "OK"))
    for code, count in codes.items():
        for _ in range(count):
            found.add(Call(0, 1, code))
    return found


def windows(p95: list[float], errors: dict[int, int] | None = None) -> list[Window]:
    bad = errors or {}
    return [Window(second, 10 if each else 0, bad.get(second, 0), each, each, each) for second, each in enumerate(p95)]


def test_every_file_can_be_read() -> None:
    """
    Scenarios, profiles and both files of bounds are whole, every line looks at scenarios that there are, and the
    shortest profile makes as many calls as its percentiles need.
    """
    found = plan.scenarios()
    assert sum(each.share for each in found) == pytest.approx(100)
    writes = sum(each.share for each in found if each.group == "create")
    assert writes == pytest.approx(10)
    smoke = plan.profile("smoke")
    calls = smoke.pace * sum(step.seconds * step.users for step in smoke.steps(1))
    judged = {each.group for each in lines(plan.BENCH / "sla.toml") if each.kind == "p95_ms"}
    rarest = min(sum(each.share for each in found if each.group == group) for group in judged)
    assert calls * rarest / 100 >= enough(SHARES["p95"])
    for name in ("smoke", "load", "stress", "spike", "soak"):
        assert list(plan.profile(name).steps(1))
    groups = {each.group for each in found}
    for file in ("sla.toml", "targets.toml"):
        assert {each.group for each in lines(plan.BENCH / file) if each.group} <= groups


def test_what_is_not_there_is_named() -> None:
    """
    A scenario or a profile that does not exist is an error that says which there are.
    """
    with pytest.raises(PlanError, match="there is no nonsense; there are asset, audit"):
        plan.scenarios("get-cached,nonsense")
    with pytest.raises(PlanError, match=r"PROFILE=nonsense: .* there are load, smoke"):
        plan.profile("nonsense")


def test_shares_of_a_part_are_whole() -> None:
    """
    Scenarios that are run alone get all of the load, in their proportion.
    """
    found = {each.name: each.share for each in plan.scenarios("search-words,search-filters")}
    assert found == {"search-words": pytest.approx(62.5), "search-filters": pytest.approx(37.5)}


def test_a_profile_is_shortened_in_proportion() -> None:
    """
    A tenth of the time has the same users in the same steps; long steps come in parts that ghz can keep.
    """
    profile = Profile("x", 1, [Stage("ramp", 100, 10, 50, 5), Stage("hold", 100, 50, 50, 1, extra=7)])
    whole, tenth = list(profile.steps(1)), list(profile.steps(0.1))
    assert sum(step.seconds for step in whole) == pytest.approx(200)
    assert sum(step.seconds for step in tenth) == pytest.approx(20)
    assert [step.users for step in tenth] == [10, 20, 30, 40, 50, 50]
    assert max(step.seconds for step in whole) <= 45
    assert profile.users == 57


def test_a_closed_loop_is_told_as_it_was() -> None:
    """
    Latency counts from the moment at which the call was sent.
    """
    shot = GeneratorRun(SCENARIO, [], 1, 10, 1)
    answer = {"details": [{"timestamp": "2026-01-01T00:00:01.5Z", "latency": 2_000_000, "status": "OK"}]}
    (call,) = calls_of(answer, shot)
    assert (call.ms, call.status) == (2.0, "OK")


def test_an_open_loop_does_not_hide_a_stall() -> None:
    """
    A call that the generator sent late has waited since it was due; one that it sent early has not waited less.
    """
    shot = GeneratorRun(SCENARIO, [], 1, 10, 1, open_loop=True)
    sent = ["00.000", "00.090", "00.700"]
    answer = {
        "details": [{"timestamp": f"2026-01-01T00:00:{at}Z", "latency": 1_000_000, "status": "OK"} for at in sent]
    }
    assert [round(call.ms, 3) for call in calls_of(answer, shot)] == [1.0, 1.0, 501.0]


def test_a_token_goes_into_the_file_alone(tmp_path: Path) -> None:
    """
    The token and the authority of a deployed gateway are in ghz's configuration, with what the scenario sends.
    """
    token = tmp_path / "token"
    token.write_text("abc\n")
    target = Target("gate:443", tmp_path / "p", ca_file=tmp_path / "ca.pem", token_file=token)
    config = config_of(GeneratorRun(SCENARIO, [{"name": "n"}], 20, 100, 2), target)
    assert config["metadata"] == {"x": "y", "authorization": "Bearer abc"}
    assert (config["cacert"], config["concurrency"], config["connections"], config["rps"]) == (
        str(tmp_path / "ca.pem"), 20, 8, 100,
    )  # fmt: skip
    assert "insecure" not in config


def test_calls_of_several_generators_are_merged_by_time() -> None:
    """
    A second has the calls of all of them, and a second without any is there.
    """
    record = Record(1000.0)
    record.add("base", [Call(1000.2, 5, "OK"), Call(1002.1, 7, "OK")])
    record.add("overlay", [Call(1000.9, 9, "OK"), Call(1002.5, 1, "Unavailable")])
    found = record.windows()
    assert [(each.second, each.calls, each.errors) for each in found] == [(0, 2, 0), (1, 0, 0), (2, 2, 1)]
    assert found[0].p99 == 9


def test_percentiles_are_of_all_calls_that_ended_well() -> None:
    """
    A call that fails at once does not make the rest look fast.
    """
    found = taken(*range(1, 1001), Unavailable=500)
    assert (found.calls, found.errors) == (1500, 500)
    assert found.percentiles() == {"p50": 501, "p90": 901, "p95": 951, "p99": 991, "max": 1000}
    assert merged([taken(1), taken(3)]).percentiles()["max"] == 3


@pytest.mark.parametrize(
    ("calls", "told"),
    [(9, ()), (10, ("p50",)), (99, ("p50", "p90")), (100, ("p50", "p90", "p95")), (4999, ("p50", "p90", "p95", "p99")),
     (5000, ("p50", "p90", "p95", "p99", "p99.9"))],
)  # fmt: skip
def test_a_percentile_needs_calls_beyond_it(calls: int, told: tuple[str, ...]) -> None:
    """
    Five calls have to lie beyond a percentile for it to be told; the slowest call always is.
    """
    assert tuple(taken(*range(calls)).percentiles()) == (*told, "max")


def test_nothing_has_no_percentiles() -> None:
    """
    Where no call ended OK there is none, not even a slowest one.
    """
    assert CallStats().percentiles() == {}


def test_recovery_is_when_it_stays_as_before() -> None:
    """
    Three seconds in a row, without errors and no slower than one and a half times before; one good second is not it.
    """
    calm = [10.0] * 5
    assert recovery(windows([*calm, 90, 10, 80, 14, 14, 14, 14]), 5.0) == 3.0
    assert recovery(windows([*calm, 10, 10, 10], {5: 1, 6: 1}), 5.0) is None
    assert recovery(windows([*calm, 0, 0, 10, 10, 10]), 5.0) == 2.0
    assert recovery(windows([*calm, 90, 90]), 5.0) is None
    assert recovery(windows([10.0]), 0.0) is None


@pytest.mark.parametrize(("calls", "found"), [(40, 0.0), (400, None)])
def test_recovery_is_told_by_percentiles_of_enough_calls(calls: int, found: float | None) -> None:
    """
    One slow call among forty is their 95th percentile and no sign of anything; twenty among four hundred are.
    """
    before = [Window(second, calls, 0, 10, 15, 20) for second in range(5)]
    after = [Window(second, calls, 0, 10, 60, 80) for second in range(5, 10)]
    assert recovery([*before, *after], 5.0) == found


def test_a_slope_is_that_of_the_line() -> None:
    """
    Least squares; one point has none.
    """
    assert slope([(0, 1), (1, 3), (2, 5)]) == 2
    assert slope([(0, 1)]) is None


def test_the_verdict_names_what_was_missed() -> None:
    """
    Each line is held against the calls of its group; what nobody measured or asked for has no verdict.
    """
    promised = [
        Line("search", "p95_ms", 100, "search"),
        Line("errors", "error_percent", 1),
        Line("up", "available_percent", 99),
        Line("hits", "hit_percent", 90),
        Line("models", "models", 10),
    ]
    calls = {"words": taken(*[50] * 100, *[200] * 98), "get": taken(1, 1, NotFound=100, Unavailable=100)}
    groups = {"words": "search", "get": "get"}
    found = judge(promised, calls, groups, {"hit_percent": None, "models": 5.0}, without=["models"])
    assert [each.held for each in found] == [False, False, False, None, None]
    assert str(found[0]) == "MISSED  search: 200 ms (asked: ≤ 100 ms)"
    assert found[1].measured == pytest.approx(50)
    assert found[2].measured == pytest.approx(75)


def test_too_few_calls_have_no_verdict() -> None:
    """
    A percentile of nineteen calls neither holds nor misses, and the whole run passes no verdict on it.
    """
    found = judge([Line("search", "p95_ms", 100, "search")], {"words": taken(*[500] * 19)}, {"words": "search"}, {})
    assert (found[0].held, found[0].why) == (None, "too few calls: 19 of 100")
    assert verdict.overall(found, quiet=True) == verdict.NO_VERDICT


@pytest.mark.parametrize(
    ("ms", "quiet", "said", "code"),
    [(50, True, "PASS", 0), (200, True, "FAIL", 1), (50, False, "NO VERDICT", 3), (200, False, "NO VERDICT", 3)],
)
def test_the_whole_verdict(ms: float, quiet: bool, said: str, code: int) -> None:
    """
    One missed objective fails the run; on a machine that others use there is no verdict, neither good nor bad.
    """
    promised = [Line("search", "p95_ms", 100, "search"), Line("health", "p95_ms", 1, "health"), Line("m", "models", 9)]
    found = judge(promised, {"words": taken(*[ms] * 100)}, {"words": "search"}, {}, unseen=("models",))
    assert verdict.overall(found, quiet) == said
    assert verdict.CODES[said] == code


def test_a_line_without_a_bound_is_refused(tmp_path: Path) -> None:
    """
    A file with a typing error does not promise less.
    """
    file = tmp_path / "sla.toml"
    file.write_text('[[lines]]\nname = "search"\np59_ms = 3\n')
    with pytest.raises(ValueError, match=r"sla\.toml, search: give it one of p95_ms"):
        lines(file)


def test_hits_are_counted_without_searches() -> None:
    """
    A page of metrics is read: the hit rate excludes searches, and a bypass is not a miss.
    """
    page_ = "\n".join(
        f'modelyard_cache_reads_total{{class="{kind}",result="{result}"}} {count}'
        for kind, result, count in (
            ("models", "near", 7), ("models", "miss", 2), ("models", "bypass", 100), ("cards", "shared", 1),
            ("searches", "miss", 50),
        )
    )  # fmt: skip
    found = read(f"# TYPE modelyard_cache_reads counter\n{page_}\n")
    assert (found.hits, found.reads) == (8, 10)


def test_a_comparison_says_how_sure_it_is() -> None:
    """
    Different series are distinguished, noise does not count as a difference, and short ones are not compared.
    """
    noise = [10.0, 11, 9, 10, 12, 8, 10, 11, 9, 10] * 4
    same = difference("p95", noise, noise[3:] + noise[:3])
    slower = difference("p95", noise, [2 * each for each in noise])
    assert same is not None
    assert same.low <= 1 <= same.high
    assert "no difference is shown" in str(same)
    assert slower is not None
    assert slower.low > 1.5
    assert "more in B, with 95 % confidence" in str(slower)
    assert difference("p95", noise[:5], noise) is None


@pytest.fixture
def report() -> dict[str, Any]:
    each = {"second": 0, "calls": 300, "errors": 1, "p50": 1.0, "p95": 2.0, "p99": None}
    promised = [Line("search", "p95_ms", 1, "search"), Line("models", "models", 9)]
    judged = verdict.as_json(judge(promised, {"words": taken(*[5] * 100)}, {"words": "search"}, {"models": None}))
    ms = taken(*[5] * 100).percentiles()
    return {
        "verdict": "FAIL", "product": "Modelyard 9 (commit abc)",
        "title": "Modelyard under <load>", "profile": "load", "scenario": "all", "mode": "closed", "scale": 0.1,
        "machine": "m", "command": "make bench PROFILE=load", "facts": ["one"], "events": ["it fell over"],
        "sla": judged, "targets": judged, "windows": [{**each, "second": second} for second in range(30)],
        "scenarios": {"words": {"calls": 3, "codes": dict(Counter(OK=2, Unavailable=1)), "ms": ms}},
        "steps": [{"at": 0, "users": users, "rate": users * 2.0} for users in (5, 10, 20)],
        "resources": {"memory": {"registry": [(0, 1.0), (1, 2.0)]}},
    }  # fmt: skip


def test_a_report_is_one_file_that_loads_nothing(report: dict[str, Any]) -> None:
    """
    The page has the verdict, the errors and the charts in it, and no address of another host to load from.
    """
    drawn = charts(report)
    assert set(drawn) == {"latency", "throughput", "users", "memory"}
    shown = page(report, drawn)
    assert all(each in shown for each in ("FAIL: Modelyard 9", "MISSED", "&lt;load&gt;", "it fell over"))
    assert not [each for each in ('href="http', 'src="http', "@import") if each in shown]
    text = markdown(report)
    assert "| words | Unavailable | 1 |" in text
    assert "| search | 5 ms | ≤ 1 ms | MISSED |" in text
    assert text.splitlines()[2] == "**FAIL**: Modelyard 9 (commit abc)"


def test_pipelines_read_the_verdict_as_junit_and_csv(report: dict[str, Any], tmp_path: Path) -> None:
    """
    JUnit has a case for each objective (failed, skipped) and one for the whole; a percentile of too few calls is an
    empty cell of the CSV.
    """
    write(tmp_path, report)
    suite = ET.parse(tmp_path / "junit.xml").getroot()  # noqa: S314 - our own
    counts = [suite.get(name) for name in ("tests", "failures", "skipped", "errors")]
    assert counts == ["3", "1", "1", "0"]
    assert {case.get("name"): [child.tag for child in case] for case in suite.iter("testcase")} == {
        "verdict": [], "search": ["failure"], "models": ["skipped"],
    }  # fmt: skip
    (row,) = csv.DictReader((tmp_path / "scenarios.csv").open())
    assert (row["scenario"], row["calls"], row["errors"], row["p95"], row["p99"]) == ("words", "3", "1", "5.0", "")
    assert len(list(csv.DictReader((tmp_path / "seconds.csv").open()))) == 30


def test_no_verdict_is_an_error_of_the_pipeline(report: dict[str, Any]) -> None:
    """
    A run on a machine that others used does not look like a passed one.
    """
    suite = ET.fromstring(junit({**report, "verdict": "NO VERDICT"}))  # noqa: S314 - our own
    assert suite.get("errors") == "1"


def test_reports_are_compared_by_their_folders(report: dict[str, Any], tmp_path: Path) -> None:
    """
    Two folders, what differs in how they were made, and a line for each figure.
    """
    for name, scale in (("a", 0.1), ("b", 0.2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(json.dumps({**report, "scale": scale}))
    said = "\n".join(compare(tmp_path / "a", tmp_path / "b"))
    assert "Careful: scale is 0.1 in A and 0.2 in B" in said
    assert "p95          B/A = 1.000" in said
    with pytest.raises(SystemExit, match="holds no report"):
        compare(tmp_path, tmp_path / "b")


def test_the_warm_up_gets_through_on_a_slow_machine() -> None:
    """
    Each request is sent once, in as many rounds as a machine needs that is slower than the warm-up thinks.
    """
    other = Scenario("card", {"call": "a.B/Card"}, "card", 10, "read")
    data = {"get-cached": [{"name": str(number)} for number in range(1000)], "card": [{"name": "only"}]}
    sent: list[str] = []

    def slow(shots: Any) -> list[list[Call]]:
        found = []
        for shot in shots:
            # A short list is begun anew.
            names = [each["name"] for each in shot.data][:150] if len(shot.data) > 1 else ["only"] * 5
            sent.extend(names)
            found.append([Call(0.0, 1.0, "OK" if name != "7" else "Unavailable") for name in names])
        return found

    warmed = warm(data, [SCENARIO, other], slow)
    assert warmed == {"get-cached": Warmed(999, 1000), "card": Warmed(1, 1)}
    assert sorted(sent) == sorted([str(number) for number in range(1000)] + ["only"] * 5)


def test_a_machine_that_answers_nothing_ends_the_warm_up() -> None:
    """
    Where no call is made, the warm-up gives up and says how far it came.
    """
    assert warm({"get-cached": [{}]}, [SCENARIO], lambda shots: [[] for _ in shots]) == {"get-cached": Warmed(0, 1)}


def test_what_asks_past_the_cache_does_not_warm_it() -> None:
    """
    Creations and reads with `no-cache` are not part of the warm-up.
    """
    assert not [each.name for each in plan.scenarios("create,get-uncached") if is_read_there(each)]
    assert is_read_there(plan.scenarios("get-cached")[0])
