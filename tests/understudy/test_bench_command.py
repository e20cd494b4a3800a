"""The arguments of `bench`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.bench import bench as module
from benchmarks.bench.remote import RemoteSource
from benchmarks.bench.report.against import Change, Changes
from benchmarks.bench.report.figures import Entry
from benchmarks.bench.settings import SCENARIOS, BenchSettings
from common.progress import say
from demo.messages import DEV

CHANGES = Changes("yesterday", [], [Change("student", "accuracy", Entry("0.9"), Entry("0.5"), -0.4, "worse")])


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the command hands on."""
    kept: dict[str, Any] = {}

    def run_bench(
        students: list[str], output: Path, settings: BenchSettings, **rest: Any
    ) -> tuple[dict[str, Any], Changes | None]:
        kept.update(students=students, output=output, settings=settings, **rest)
        say("measuring")
        return {"models": ["é"]}, CHANGES if rest["against"] else None

    monkeypatch.setattr(module, "run_bench", run_bench)
    return kept


def test_the_defaults(understudy: Callable[..., Any], asked: dict[str, Any]) -> None:
    result = understudy("bench", "one", "two@torch", "--teacher", "big", "-o", "report")
    assert result.code == 0, result.err
    assert asked["students"] == ["one", "two@torch"]
    assert (asked["teacher"], asked["data"], asked["output"]) == ("big", str(DEV), Path("report"))
    assert asked["settings"] == BenchSettings()
    assert asked["settings"].scenarios == SCENARIOS
    assert (asked["servers"], asked["against"], asked["quiet"]) == ([], None, False)
    assert asked["foreign_labels"]
    assert result.out == "measuring\n"


def test_settings_and_servers(understudy: Callable[..., Any], asked: dict[str, Any]) -> None:
    options = (
        "--scenarios",
        "server, offline",
        "--seconds",
        2,
        "--latency-bound-ms",
        20,
        "--price-per-core-hour",
        0.04,
    )
    servers = ("--url", "http://a:1", "--url", "http://b:2", "--dialect", "oip", "--model", "x", "--model", "y")
    result = understudy("bench", "--teacher", "big", "-o", "r", *options, *servers)
    assert result.code == 0, result.err
    assert asked["settings"] == BenchSettings(
        scenarios=("server", "offline"), seconds=2.0, latency_bound_ms=20.0, price_per_core_hour=0.04
    )
    assert asked["servers"] == [RemoteSource("http://a:1", "oip", "x"), RemoteSource("http://b:2", "oip", "y")]
    assert list(asked["students"]) == []


def test_json_is_all_that_is_printed(understudy: Callable[..., Any], asked: dict[str, Any]) -> None:
    result = understudy("bench", "one", "--teacher", "big", "-o", "report", "--json")
    assert json.loads(result.out) == {"models": ["é"]}
    assert asked["quiet"]


@pytest.mark.usefixtures("asked")
def test_a_regression_is_in_the_json_and_in_the_exit_code(understudy: Callable[..., Any]) -> None:
    result = understudy("bench", "one", "--teacher", "big", "-o", "report", "--json", "--against", "old.json")
    assert json.loads(result.out) == {"models": ["é"]}
    assert result.code == 1
    assert "student: accuracy 0.9 → 0.5" in result.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("one", "big"), "name the teacher with --teacher: understudy bench one --teacher big -o report"),
        (("one",), "understudy bench STUDENT --teacher one -o report"),
        ((), "understudy bench STUDENT --teacher TEACHER -o report"),
        (("one", "--teacher", "big", "--scenarios", "batch"), "'batch' is none"),
        (("one", "--teacher", "big", "--url", "a", "--dialect", "tei", "--dialect", "oip"), "1 --url and 2 --dialect"),
        (("one", "--teacher", "big", "--url", "ftp://a"), "is no URL of a server"),
        (("one", "--teacher", "big", "--dialect", "tei"), "--dialect needs a --url"),
    ],
)
@pytest.mark.usefixtures("asked")
def test_what_makes_no_sense_is_one_line(
    understudy: Callable[..., Any], arguments: tuple[str, ...], message: str
) -> None:
    result = understudy("bench", *arguments, "-o", "report")
    assert result.code == 2
    assert message in result.err
    assert len(result.err.strip().splitlines()) == 1
