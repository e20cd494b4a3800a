"""The report on answers: against the labels, and student against teacher."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.bench.report.blocks import Block, Details, Table
from benchmarks.bench.report.figures import (
    NONE,
    Entry,
    count,
    entry,
    exact,
    metric,
    percent,
    readable,
)
from benchmarks.bench.report.schema import Results


def quality(results: Results) -> Iterator[Block]:
    quality, agreement = results.quality, results.agreement
    if quality is not None:
        names = list(dict.fromkeys(name for model in quality.models.values() for name in model.metrics))
        yield Table(
            (count(quality.rows, "row"), *names, f"{quality.metric} kept"),
            [
                [
                    Entry(readable(key)),
                    *[entry(model.metrics.get(name), metric) for name in names],
                    entry(model.retention, percent),
                ]
                for key, model in quality.models.items()
            ],
        )
    if agreement is not None and agreement.models:
        yield Table(
            ("against the teacher", "measure", "value", "texts", "student alone right", "teacher alone right", "p"),
            [
                [
                    Entry(readable(key)),
                    Entry(readable(model.name)),
                    entry(model.value, metric),
                    Entry(f"{model.rows:,}"),
                    exact(model.mcnemar.student_only if model.mcnemar else None, str),
                    exact(model.mcnemar.teacher_only if model.mcnemar else None, str),
                    exact(model.mcnemar.p if model.mcnemar else None, lambda p: f"{p:.2g}"),
                ]
                for key, model in agreement.models.items()
            ],
        )


# With more labels a matrix is too wide to be read.
_MATRIX_LABELS = 6
# Cells whose texts are seen at once; the others open at a press.
_OPEN_CELLS = 2


def confusion(results: Results) -> Iterator[Block]:
    if results.agreement is None:
        return
    labels = results.task.labels
    for key, model in results.agreement.models.items():
        if not model.confusion:
            continue
        yield f"{readable(key)} and the teacher: {count(sum(cell.count for cell in model.confusion), 'text')} apart."
        if len(labels) <= _MATRIX_LABELS and model.agreed:
            counts = {(cell.teacher, cell.student): cell.count for cell in model.confusion}
            counts.update({(label, label): together for label, together in model.agreed.items()})
            yield Table(
                ("teacher ↓ student →", *map(readable, labels)),
                [
                    [Entry(readable(row)), *[Entry(f"{counts.get((row, column), 0):,}") for column in labels]]
                    for row in labels
                ],
            )
        for index, cell in enumerate(model.confusion):
            more = f", {len(cell.texts)} shown" if len(cell.texts) < cell.count else ""
            yield Details(
                f"{readable(cell.teacher)} → {readable(cell.student)}: {count(cell.count, 'text')}{more}",
                Table(
                    ("text", "right", "teacher's score", "student's score"),
                    [
                        [
                            Entry(readable(text.text)),
                            Entry(NONE if text.label is None else readable(text.label)),
                            exact(text.teacher_score, metric),
                            exact(text.student_score, metric),
                        ]
                        for text in cell.texts
                    ],
                ),
                is_open=index < _OPEN_CELLS,
            )
