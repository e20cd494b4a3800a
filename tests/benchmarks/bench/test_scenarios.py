"""What each scenario asks of the models, and the figures it makes of known times."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.bench import multi_stream, offline, single_stream
from benchmarks.bench.contestants import LocalModel, open_models
from benchmarks.bench.multi_stream import MultiStream
from benchmarks.bench.offline import Offline, Pass, run_pass
from benchmarks.bench.sample import Sample
from benchmarks.bench.single_stream import SingleStream

ROUNDS = 6


@pytest.fixture(scope="module")
def models(student: Path, teacher: Path) -> list[LocalModel]:
    return open_models([student], teacher, "onnx", "cpu", 1)


@pytest.fixture(scope="module")
def sample(models: list[LocalModel], messages: list[str]) -> Sample:
    return Sample.of(list(messages), models, seed=0)


def test_single_stream_has_a_few_texts_at_any_cost_and_no_more_than_fit(
    models: list[LocalModel], sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    for cost, plain, by_length in ((1e9, 17, 3), (1e-9, len(sample.texts), 32)):
        monkeypatch.setattr(single_stream, "mean_cost", lambda *_, cost=cost: cost)
        scenario = SingleStream(models, sample, ROUNDS, seconds=1.0)
        assert len(scenario.jobs) == 1 + len(sample.bins)
        calls = [job.run(models[0]) for job in scenario.jobs]
        assert len(calls[0]) == plain
        assert max(map(len, calls[1:])) <= by_length
        assert all(second > 0 for part in calls for second in part)


def test_single_streams_figures(models: list[LocalModel], sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(single_stream, "mean_cost", lambda *_: 1e9)
    scenario = SingleStream(models, sample, ROUNDS, seconds=1.0)
    drift = np.linspace(1, 2, ROUNDS)
    calls = np.linspace(0.001, 0.003, 17)
    teacher = [(2 * level * calls).tolist() for level in drift]
    student = [(level * calls).tolist() for level in drift]
    turns = [{"teacher": teacher, "student": student} for _ in scenario.jobs]
    found = scenario.result(turns)["models"]
    pooled = 1e3 * np.concatenate(student)
    assert found["student"]["calls"] == 17 * ROUNDS
    for rank in (50, 90, 99):
        assert found["student"][f"p{rank}_ms"]["value"] == pytest.approx(np.percentile(pooled, rank), rel=1e-5)
    assert found["student"]["ratio_p50"] == {"value": 0.5, "low": 0.5, "high": 0.5}
    assert found["teacher"]["ratio_p50"] is None
    histogram = found["student"]["histogram"]
    assert histogram["edges_ms"] == found["teacher"]["histogram"]["edges_ms"]
    assert sum(histogram["counts"]) == 17 * ROUNDS
    edges = histogram["edges_ms"]
    assert len(edges) == len(histogram["counts"]) + 1
    assert (np.diff(edges) > 0).all()
    assert edges[0] == pytest.approx(1.0)
    assert edges[-1] == pytest.approx(12.0)
    assert [part["tokens"] for part in found["student"]["by_length"]] == [part.name for part in sample.bins]
    assert all(part["ratio"]["value"] == 0.5 for part in found["student"]["by_length"])
    assert all(part["joined"] <= part["texts"] for part in found["student"]["by_length"])


def test_multi_stream_asks_for_eight_at_a_time(
    models: list[LocalModel], sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multi_stream, "mean_cost", lambda *_: 1e9)
    asked: list[int] = []

    class Recorder:
        id, where = "teacher", "in-process"

        def call(self, texts: list[str]) -> None:
            asked.append(len(texts))

    scenario = MultiStream(models, replace(sample, texts=sample.texts[:3]), ROUNDS, seconds=1.0)
    calls = scenario.jobs[0].run(Recorder())
    assert asked == [8] * 17
    found = scenario.result([{"teacher": [calls] * ROUNDS, "student": [[2 * t for t in calls]] * ROUNDS}])
    assert found["streams"] == 8
    assert found["models"]["student"]["ratio_p50"]["value"] == pytest.approx(2, rel=1e-4)


def test_offline_answers_the_same_texts_in_batches_of_each_size(
    models: list[LocalModel], sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offline, "affordable", lambda *_, **bounds: bounds["least"])
    scenario = Offline(models, sample, ROUNDS, seconds=1.0)
    passes = [[job.run(model) for model in models] for job in scenario.jobs]
    assert [each[0].texts for each in passes] == [64, 16, 32, 64]
    assert all(each[0].lengths == each[1].lengths for each in passes)
    assert all(job.local for job in scenario.jobs)
    few = Offline(models, replace(sample, texts=sample.texts[:9]), ROUNDS, seconds=1.0)
    found = few.result([{"teacher": [job.run(models[0])] * ROUNDS} for job in few.jobs])
    assert [part["batch"] for part in found["models"]["teacher"]["by_batch"]] == [1, 8]


def test_offlines_figures(models: list[LocalModel], sample: Sample) -> None:
    scenario = Offline(models, sample, ROUNDS, seconds=0.01)
    drift = np.linspace(1, 2, ROUNDS)
    turns = [
        {
            "teacher": [Pass(2 * level, 0.5, (10, 30)) for level in drift],
            "student": [Pass(level / 2, 0.5, (10, 30)) for level in drift],
        }
        for _ in scenario.jobs
    ]
    found = scenario.result(turns)["models"]
    assert found["teacher"]["ratio"] is None
    assert found["student"]["ratio"]["value"] == 4
    assert found["student"]["texts_per_s"]["value"] == pytest.approx(np.median(4 / drift), rel=1e-5)
    assert found["student"]["tokens_per_s"]["value"] == pytest.approx(20 * np.median(4 / drift), rel=1e-5)
    assert found["student"]["texts_per_s"]["low"] == pytest.approx(2, rel=1e-5)


def test_a_pass_has_the_batches_that_it_is_to_have(models: list[LocalModel], sample: Sample) -> None:
    seen: list[int] = []
    engine = models[0].engine
    run = engine.model.run

    class Watched:
        def run(self, batch: list) -> np.ndarray:
            seen.append(len(batch))
            return run(batch)

    watched = type(engine)(engine.bundle, Watched(), engine.encoder, engine.limits)  # type: ignore[arg-type]
    done = run_pass(watched, sample.texts[:20], 8)
    assert seen == [8, 8, 4]
    assert done.tokens == sum(sample.lengths[:20])
    assert done.seconds > 0
    seen.clear()
    run_pass(watched, sample.texts[:40], None)
    assert max(seen) == engine.limits.items


def test_the_longest_texts_and_the_lengths(sample: Sample) -> None:
    longest = sample.longest(3)
    by_length = sorted(sample.lengths, reverse=True)
    assert [encoded.tokens for encoded in sample.encoder.encode(longest)] == by_length[:3]
    told = sample.describe()
    assert told["max"] == by_length[0]
    assert told["median"] == np.median(sample.lengths)
    assert sorted(map(str, sample.drawn)) == sorted(map(str, sample.texts))
