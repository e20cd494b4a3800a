"""Rounds become medians, ratios and lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.servers.ceiling import Ceiling, Setting
from benchmarks.servers.contestants import Contestant, make_contestants
from benchmarks.servers.load import Load
from benchmarks.servers.report import Record, Round, summarize, table

BARE, TOKENIZING = Setting(1, 2, 8, False), Setting(1, 2, 8, True)
CEILING = Ceiling([], {BARE: [1000.0] * 3, TOKENIZING: [800.0] * 3}, {BARE: [1.0], TOKENIZING: [1.2]}, [2.0])
CEILINGS = {"fp32": CEILING, "int8": CEILING}


def load(connections: int, rate: int, p50: float) -> Load:
    return Load(connections, 10 * rate, 10.0, p50, 2 * p50, 3 * p50, 4 * p50, refused=0, socket_errors=1)


def rounds(rates: list[int], p50: float) -> list[Round]:
    return [Round(turn, 1.0, 2.0, 0, load(1, 100, p50), load(32, rate, 40), 1.5) for turn, rate in enumerate(rates)]


@pytest.fixture
def contestants() -> dict[str, Contestant]:
    made = make_contestants(Path("model"), Path("plain"), {"fp32": Path("a"), "int8": Path("b")}, [])
    return {contestant.name: contestant for contestant in made}


def test_ratios_are_to_the_ceiling_and_to_the_best_other(contestants: dict[str, Contestant]) -> None:
    records = [
        Record(contestants["understudy-fp32"], {"understudy": "1"}, rounds([900, 600, 800], p50=2.5)),
        Record(contestants["fastapi"], {"fastapi": "2"}, rounds([300, 200, 400], p50=5)),
        Record(contestants["litserve"], {"litserve": "3"}, rounds([500, 400], p50=10), error="it ended with 1"),
        Record(contestants["infinity"], {}, [], error="not installed"),
    ]
    ours, fastapi, litserve, infinity = rows = summarize(records, CEILINGS)
    assert ours["of_ceiling"] == 0.8
    assert ours["of_ceiling_range"] == [0.6, 0.9]
    assert ours["of_ceiling_with_tokenizing"] == 1
    assert ours["of_bare_call"] == 1.25
    assert ours["many"]["texts_per_s"] == 800
    assert ours["many"]["socket_errors"] == 3
    assert ours["over_best_other"] == {
        "throughput": {"other": "litserve", "ratio": pytest.approx(800 / 450, rel=1e-5), "ratio_range": [1.5, 1.8]},
        "latency": {"other": "fastapi", "ratio": 0.5, "ratio_range": [0.5, 0.5]},
    }
    assert fastapi["over_best_other"]["throughput"]["other"] == "litserve"
    assert litserve["over_best_other"]["throughput"]["other"] == "fastapi"
    assert "many" not in infinity
    printed = table(rows, {"fp32": CEILING.as_dict()}).splitlines()
    assert len(printed) == 1 + 1 + len(records)
    assert "1,000 texts/s" in printed[0]
    assert printed[-1].endswith("not measured: not installed")


def test_a_server_alone_has_nothing_to_be_held_against(contestants: dict[str, Contestant]) -> None:
    (row,) = summarize([Record(contestants["understudy-int8"], {}, rounds([900], p50=2))], CEILINGS)
    assert "over_best_other" not in row
    assert table([row], {}).splitlines()[-1].startswith("understudy-int8")


def test_refused_requests_are_not_throughput() -> None:
    refused = Load(32, 100, 10.0, 1, 1, 1, 1, refused=40, socket_errors=0)
    assert refused.texts_per_s == 6
