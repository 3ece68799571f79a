from __future__ import annotations

import itertools
import math
from dataclasses import fields
from pathlib import Path

import pytest

from bench.capacity import calibration, ceiling
from bench.capacity.__main__ import PAGE, blocks, filled, main
from bench.capacity.assumptions import DEFAULT, KINDS, UNITS, load
from bench.capacity.caching import Keys, characteristic_time, hit, hit_rate, zipf
from bench.capacity.queueing import erlang_c, mean_wait, p95
from bench.capacity.simulation import ERROR, TRIALS, Trial, approximated, simulated
from bench.capacity.sizing import plan
from bench.capacity.traffic import Case, CaseError
from bench.run.plan import scenarios
from services.cache.model import coherence, l1
from services.cache.settings import CacheSettings
from services.ledger.store import writer
from services.ledger.store.database import DatabaseSettings

FIGURES = load()


def at(models: float, calls: float, writes: float = 0.01, gib: float = 0.0) -> Case:
    return Case(models, calls, writes, 0.9, gib)


@pytest.mark.parametrize(
    ("servers", "offered", "delayed"),
    [(1, 0.5, 0.5), (2, 1.0, 1 / 3), (3, 2.0, 4 / 9), (5, 4.0, 0.5541), (10, 8.0, 0.4092), (100, 90.0, 0.2169)],
)
def test_erlang_c(servers: int, offered: float, delayed: float) -> None:
    """
    The probability of waiting is Erlang's: by hand for one to three servers, by the sum that defines it for all.
    """
    powers = [offered**n / math.factorial(n) for n in range(servers)]
    waiting = offered**servers / math.factorial(servers) * servers / (servers - offered)
    assert erlang_c(servers, offered) == pytest.approx(waiting / (sum(powers) + waiting), rel=1e-9)
    assert erlang_c(servers, offered) == pytest.approx(delayed, abs=1e-4)


def test_waits_of_known_queues() -> None:
    """
    M/M/1 waits rho/(1-rho) of a service, M/D/1 half of that, and p95 of M/M/1 is three times 1/(mu-lambda).
    """
    assert mean_wait(1, 0.8, 10.0) == pytest.approx(40.0)
    assert mean_wait(1, 0.8, 10.0, 1.0, 0.0) == pytest.approx(20.0)
    exact = 10.0 / (1 - 0.8) * math.log(20)
    assert exact <= p95(1, 0.8, 10.0) <= 1.2 * exact


def test_a_full_queue_is_refused() -> None:
    """
    A load that the servers cannot take has no finite wait, and is an error.
    """
    with pytest.raises(ValueError, match="2 servers cannot take a load of 2 erlang"):
        erlang_c(2, 2.0)


@pytest.mark.parametrize("trial", TRIALS)
def test_che_is_what_a_simulation_finds(trial: Trial) -> None:
    """
    With and without eviction, a TTL and writes, the approximation is off by less than it says.
    """
    assert approximated(trial) == pytest.approx(simulated(trial), abs=ERROR)


def test_hits_by_hand() -> None:
    """
    Where there is a formula the hit rate is it: writes alone, a TTL alone.
    """
    assert hit(Keys(1, 9.0, 1.0, 1e12), math.inf) == pytest.approx(0.9)
    assert hit(Keys(1, 2.0, 0.0, 5.0), math.inf) == pytest.approx(10 / 11)
    assert hit(Keys(1, 0.0, 0.0, 5.0), math.inf) == 0.0


@pytest.mark.parametrize("skew", [0.0, 0.7, 1.0, 1.3])
def test_zipf_in_bins_is_zipf(skew: float) -> None:
    """
    Bins have every key once and every share; the hit rate that comes of them is that of single keys.
    """
    binned, single = zipf(3000, skew), [rank**-skew for rank in range(1, 3001)]
    assert sum(count for count, _ in binned) == 3000
    assert sum(count * share for count, share in binned) == pytest.approx(1)
    keys = [Keys(count, share, 0.0, 1e12) for count, share in binned]
    each = [Keys(1, share / sum(single), 0.0, 1e12) for share in single]
    assert hit_rate(keys, characteristic_time(keys, 300)) == pytest.approx(
        hit_rate(each, characteristic_time(each, 300)), abs=0.002
    )


def test_the_ceiling_of_one_revision() -> None:
    """
    Groups share the flush and nothing else: without groups it is one commit each, as was measured before there were
    any; full ones come near to what is held; a farther database lowers it; faster disks cannot lift it above 1/held.
    """
    held, flush = FIGURES["write.held"], FIGURES["write.flush_here"]
    assert ceiling.writes(1, held, flush, 0.0) == pytest.approx(460, rel=0.01)
    assert ceiling.writes(64, held, 0.0, 0.0) == pytest.approx(1000 / held)
    assert ceiling.writes(64, held, flush, 1.0) < ceiling.writes(64, held, flush, 0.0) < 1000 / held


@pytest.mark.parametrize("models", [1e4, 1e6, 1e8])
@pytest.mark.parametrize("writes", [0.01, 0.1])
def test_more_calls_never_take_less(models: float, writes: float) -> None:
    """
    From one step of 1, 2, 5, 10 … calls a second to the next nothing becomes fewer: pods, servers, machines, suites.
    """
    steps = [first * 10.0**power for power in range(1, 6) for first in (1, 2, 5)] + [1e6]
    plans = [plan(FIGURES, at(models, calls, writes)) for calls in steps]
    for less, more in itertools.pairwise(plans):
        assert less.suites <= more.suites
        assert less.machines <= more.machines
        for name in ("gateway", "cache", "registry", "cdn", "valkey"):
            assert less.pool(name).servers <= more.pool(name).servers, (name, more.case)
        of_all = [each.pool("postgres").servers * each.postgres.size for each in (less, more)]
        assert of_all[0] <= of_all[1], more.case


def test_nothing_is_fuller_than_its_target() -> None:
    """
    Pools stay below what the assumptions allow, and there are two of everything.
    """
    for case in (at(1e4, 10), at(1e6, 1e5), at(1e8, 1e6), at(1e6, 1e4, 0.3), at(1e4, 1e3, 1.0), at(1e4, 1e3, 0.0, 5.0)):
        found = plan(FIGURES, case)
        for pool in found.pools:
            target = {"gateway": "gateway", "postgres": "postgres", "valkey": "valkey"}.get(pool.name, "services")
            assert pool.utilisation <= FIGURES[f"target.{target}"] + 1e-6, (pool, case)
            assert pool.servers >= (1 if pool.name == "valkey" else 2) * found.suites
        assert found.postgres.primary <= FIGURES["target.postgres"] + 1e-6
        assert found.load.writes <= found.ceiling * FIGURES["target.revision"] + 1e-6


def test_what_splits_a_registry() -> None:
    """
    Writes split it when one revision cannot take them, models when there are more than a suite's, work when it is more
    than PostgreSQL and its replicas can do; nothing else does.
    """
    most = ceiling.deployed(FIGURES) * FIGURES["target.revision"]
    assert plan(FIGURES, at(1e6, most / 0.01 * 0.1)).bound == ""
    assert plan(FIGURES, at(1e6, most / 0.1 * 1.01, 0.1)).bound == "revision"
    assert (plan(FIGURES, at(1e7, 100)).suites, plan(FIGURES, at(2e7, 100)).suites) == (1, 2)
    # Writes that take more cores than the largest server has, and searches that take more than all replicas.
    assert plan(FIGURES.but({"write.postgres": 100}), at(1e6, most / 0.01 * 0.95)).bound == "PostgreSQL"
    assert plan(FIGURES.but({"postgres.growth": 5}), at(1e6, most / 0.01 * 0.95)).bound == "PostgreSQL"


def test_every_assumption_says_where_it_comes_from() -> None:
    """
    Each has a unit and a source, one that nobody measured says why, and a document that a source names is there.
    """
    root = DEFAULT.parents[2]
    for figure in FIGURES.figures.values():
        assert figure.unit in UNITS
        assert figure.kind in KINDS
        assert len(figure.source) > 3, figure.name
        assert figure.why or figure.kind != "assumed", figure.name
        for word in figure.source.replace(":", " ").replace(",", " ").replace(";", " ").split():
            if "/" in word and word.startswith(("docs/", "bench/", "services/")):
                assert list(root.glob(f"{word}*")), (figure.name, word)
    for call in FIGURES.calls:
        assert call.source, call.name
    for field in ("share", "keys", "answer", "kept", "ended_by", "registry", "postgres", "grows", "at"):
        assert FIGURES.call_units[field]


def test_settings_are_those_of_the_code() -> None:
    """
    What is called a setting is the default or the bound that the services have; the reads are mixed as the bench does.
    """
    defaults = {field.name: field.default for field in fields(CacheSettings)}
    pool = {field.name: field.default for field in fields(DatabaseSettings)}
    assert FIGURES["write.group"] == writer._MAX_GROUP
    assert FIGURES["stream.cells"] == coherence.CELLS
    assert FIGURES["near.memory"] * 2**20 == defaults["near_bytes"]
    assert l1.OVERHEAD <= FIGURES["near.overhead"] <= l1.OVERHEAD + 200
    assert FIGURES["postgres.pool"] == pool["most"]
    ttl = {call.kept for call in FIGURES.calls}
    assert ttl == {0, *(defaults[f"ttl_{name}"] for name in ("models", "searches", "cards", "deployments", "assets"))}
    mixed = {each.name.replace("-", "_"): each.share for each in scenarios("")}
    assert mixed.pop("create") == 10
    searches = mixed.pop("search_words") + mixed.pop("search_filters")
    mixed |= {"get": mixed.pop("get_cached"), "search": searches}
    assert {call.name.removeprefix("calls."): call.share for call in FIGURES.calls} == mixed


def test_a_new_model_touches_two_cells() -> None:
    """
    Of a creation a cell of the model's own is touched, and one of what is below it.
    """
    known = coherence.Coherence(hashed=lambda name: int(name[1:]) if name[0] == "m" else 0)
    for number in range(1, 101):
        known.apply(number, [(f"m{number}", True)])
    touched = len(known._cells) - known._cells.count(0)
    assert touched == 100 * FIGURES["stream.cells_of_creation"]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("value = 0.14", 'value = "much"', "gateway.call.value is 'much'; it is a number"),
        ("value = 0.14", "value = -1", "gateway.call.value is -1; a ms is between"),
        ("value = 0.14", "value = nan", "gateway.call.value is nan; it is a finite number"),
        (
            "[traffic.writes]\nvalue = 0.01",
            "[traffic.writes]\nvalue = 1.5",
            "traffic.writes.value is 1.5; a share is between 0 and 1",
        ),
        ("[gateway.call]", "[gateway.cal]", "gateway.call is missing; copy it"),
        ('unit = "exponent"', 'unit = "furlong"', "traffic.skew.unit is 'furlong'; use one of ms, share"),
        ('unit = "exponent"', 'unit = "ratio"', "traffic.skew.value is 0.9; a ratio is between 1 and 100"),
        ("[calls.get]\nshare = 34", "[calls.get]\nshare = -1", "calls.get.share is -1; it is 0 or more"),
        ('ended_by = "own"', 'ended_by = "me"', "calls.get.ended_by is 'me'; use one of own, namespace, none"),
        ("[client.call]", "[client.call", "is not TOML"),
    ],
)
def test_wrong_assumptions_are_told(
    old: str, new: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    What is wrong in a changed copy is named, with what would be right; nothing is computed.
    """
    text = DEFAULT.read_text(encoding="utf-8")
    assert old in text
    copy = tmp_path / "mine.toml"
    copy.write_text(text.replace(old, new, 1), encoding="utf-8")
    assert main(["--assumptions", str(copy)]) == 2
    captured = capsys.readouterr()
    assert told in captured.err
    assert str(copy) in captured.err
    assert not captured.out


@pytest.mark.parametrize("field", ["unit", "kind", "source", "why"])
def test_an_assumption_without_its_reasons_is_refused(
    field: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    A copy must go on saying what its figures are and where they come from.
    """
    lines = DEFAULT.read_text(encoding="utf-8").splitlines()
    first = next(number for number, line in enumerate(lines) if line == "[cache.miss]")
    gone = next(number for number in range(first, len(lines)) if lines[number].startswith(f"{field} ="))
    copy = tmp_path / "mine.toml"
    copy.write_text("\n".join(lines[:gone] + lines[gone + 1 :]), encoding="utf-8")
    assert main(["--assumptions", str(copy)]) == 2
    assert f"cache.miss.{field} is missing" in capsys.readouterr().err


def test_the_page_is_of_the_trees_own_assumptions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """
    It is not written from a copy, and stays as it is.
    """
    copy, before = tmp_path / "mine.toml", PAGE.read_bytes()
    copy.write_bytes(DEFAULT.read_bytes())
    assert main(["--page", "--assumptions", str(copy)]) == 2
    assert "leave --assumptions out" in capsys.readouterr().err
    assert PAGE.read_bytes() == before


def test_a_file_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """
    It is named.
    """
    assert main(["--assumptions", str(tmp_path / "none.toml")]) == 2
    assert "none.toml: cannot be read: No such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--models", "1e4"], "--calls is missing"),
        (["--writes", "0.1"], "--models is missing"),
        (["--models", "0", "--calls", "1"], "--models is 0; give a number between 1 and"),
        (["--models", "1", "--calls", "nan"], "--calls is nan; give a number between"),
        (["--models", "1", "--calls", "1", "--writes", "2"], "--writes is 2; give a number between 0 and 1"),
        (["--models", "1", "--calls", "1", "--skew", "-1"], "--skew is -1; give a number between 0 and 3"),
    ],
)
def test_wrong_cases_are_told(given: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    """
    What is wrong with a case is named by its option, with what it may be.
    """
    assert main(given) == 2
    assert told in capsys.readouterr().err


def test_a_changed_copy_changes_the_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """
    Twice the cost of a call at the gateway is twice its cores, and the reasoning says so.
    """
    copy = tmp_path / "mine.toml"
    copy.write_text(DEFAULT.read_text(encoding="utf-8").replace("value = 0.14", "value = 0.28"), encoding="utf-8")
    case = ["--models", "1e4", "--calls", "20000"]
    assert main(case) == 0
    assert "gateway: 2.80 cores of work / 2 a pod at 40% → 4 pods" in capsys.readouterr().out
    assert main([*case, "--assumptions", str(copy)]) == 0
    assert "gateway: 5.60 cores of work / 2 a pod at 40% → 7 pods" in capsys.readouterr().out


def test_the_model_says_what_was_measured() -> None:
    """
    Each figure is within the factor that the page claims; those known to be missed are more than 1.5 off, or the page
    would claim too little.
    """
    found = calibration.rows(FIGURES)
    assert len(found) >= 10
    for row in found:
        if row.within:
            assert row.off <= row.within, row
        else:
            assert row.off > 1.5, row


def test_the_page_is_what_the_program_prints() -> None:
    """
    Tables and the example of docs/capacity.md are those of the program: `python -m bench.capacity --page` writes them.
    """
    page = PAGE.read_text(encoding="utf-8")
    found = blocks(FIGURES)
    for name in found:
        assert f"<!-- {name} -->\n" in page, name
    assert filled(page, found) == page
    assert filled(page.replace("| 10 k |", "| 11 k |"), found) == page


def test_a_case_that_fits_nothing() -> None:
    """
    When not even many suites help, it is said.
    """
    slow = FIGURES.but({"postgres.model": 1e9, "postgres.models_most": 1e12})
    with pytest.raises(CaseError, match="fits no number of suites"):
        plan(slow, at(1e10, 10))
