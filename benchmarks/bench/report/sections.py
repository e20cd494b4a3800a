"""The report after its verdict: one content for page and Markdown."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from benchmarks.bench.report import answer_sections, plots, speed_sections
from benchmarks.bench.report.blocks import Block, Section, Table, if_any
from benchmarks.bench.report.figures import (
    NONE,
    Entry,
    count,
    exact,
    number,
    percent,
    readable,
)
from benchmarks.bench.report.schema import Model, Results
from benchmarks.bench.report.summary import summary_rows


def sections(results: Results) -> list[Section]:
    """All that there is something to say in."""
    everything = [
        Section("Student against teacher", list(_overview(results))),
        Section("One text at a time (single-stream)", list(speed_sections.single_stream(results))),
        Section("Several texts at a time (multi-stream)", list(speed_sections.multi_stream(results))),
        Section("Random arrivals (server)", list(speed_sections.server(results))),
        Section("All texts at once (offline)", list(speed_sections.offline(results))),
        Section("What it takes to run", list(speed_sections.cost(results))),
        Section("Answers", list(answer_sections.quality(results))),
        Section("Where student and teacher differ", list(answer_sections.confusion(results))),
        Section("How it was measured", list(_method(results))),
    ]
    return [section for section in everything if section.blocks]


def _overview(results: Results) -> Iterator[Block]:
    rows = [[Entry(name), *entries] for name, entries in summary_rows(results)]
    yield Table(("", *_ids(results)), rows)
    yield from if_any(plots.frontier_chart(results))


def _method(results: Results) -> Iterator[Block]:
    noise, data, tokens = results.noise, results.data, results.data.tokens
    yield (
        "All models took turns in every round, in an order that changes from round to round, so that what slows the "
        "machine down falls on all alike. A ratio is taken within each round. Intervals hold 95 %: of speed over the "
        "rounds, of answers over the texts. What ran before a model was warm is left out."
    )
    yield from if_any(plots.drift_chart(results))
    warm_up = ", ".join(f"{readable(key)} {left_out:,}" for key, left_out in noise.warm_up.items())
    facts = {
        "command": shlex.join(results.command),
        "made": f"{results.created}, in {number(results.seconds)} s",
        "data": f"{data.name}: {count(data.rows, 'labelled text' if data.labelled else 'text')}, sha256 {data.sha256}",
        "tokens of a text": f"median {tokens.median:,.0f}, p90 {tokens.p90:,.0f}, most {tokens.max:,}",
        "task": f"{results.task.problem_type}, {count(len(results.task.labels), 'label')}",
        "calls before warm": warm_up or NONE,
        "noise": f"{noise.verdict}: spread {percent(noise.spread)}, limit {percent(noise.limit)}",
        **{f"{model.id}: sha256 of the model": model.sha256 for model in results.models if model.sha256},
        **{f"{model.id}: of the manifest": model.manifest_sha256 for model in results.models if model.manifest_sha256},
        **{f"setting: {name}": value for name, value in results.settings.model_dump().items() if value is not None},
        **{f"machine: {name}": value for name, value in results.machine.facts().items()},
    }
    yield Table(
        ("", "value"), [[Entry(readable(name)), Entry(_fact(value))] for name, value in facts.items()], is_facts=True
    )
    yield Table(
        ("model", "name", "where", "reads at most", "truncated texts"),
        [
            [
                Entry(readable(model.id)),
                Entry(readable(model.name)),
                Entry(readable(model.where + (f", {model.dialect}" if model.dialect else "")), _requests(model)),
                exact(model.max_length, lambda tokens: count(int(tokens), "token")),
                exact(model.truncated_rows, lambda rows: f"{rows:,.0f}"),
            ]
            for model in results.models
        ],
    )


def _requests(model: Model) -> tuple[str, ...]:
    if model.requests is None:
        return ()
    errors = ", ".join(f"{readable(kind)} {times:,}" for kind, times in (model.errors or {}).items() if times)
    return count(model.requests, "request"), f"errors: {errors or 'none'}"


def _fact(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return readable(", ".join(map(str, value)))
    if isinstance(value, dict):
        return readable(", ".join(f"{name} {entry}" for name, entry in value.items()))
    return readable(str(value))


def _ids(results: Results) -> list[str]:
    return [readable(model.id) for model in results.models]
