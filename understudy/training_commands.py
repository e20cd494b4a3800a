"""`finetune`, `distill`, `export`, `demo`: the arguments; the work is in the rooms."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from common.metrics import LOWER_IS_BETTER
from common.progress import say
from understudy.options import (
    Dev,
    LabelColumn,
    Metric,
    Output,
    Overwrite,
    PairColumn,
    Seed,
    TextColumn,
    Train,
    columns,
)

Epochs = Annotated[int, typer.Option(help="Passes over the training rows; the best by dev metric is kept.")]
BatchSize = Annotated[int, typer.Option(help="Rows a step.")]
LearningRate = Annotated[float, typer.Option(help="AdamW's peak learning rate.")]
MaxLength = Annotated[
    int | None,
    typer.Option(help="Tokens a text; longer texts are truncated, and counted. 128, or what the teacher reads."),
]


def finetune(
    train: Train,
    dev: Dev,
    output: Output,
    model: Annotated[
        str, typer.Option(help="Pre-trained model: a directory, the embedded default, or a name on the Hub.")
    ] = "all-MiniLM-L6-v2",
    epochs: Epochs = 4,
    batch_size: BatchSize = 32,
    learning_rate: LearningRate = 5e-5,
    max_length: MaxLength = None,
    metric: Metric = None,
    multi_label: Annotated[bool, typer.Option("--multi-label", help="Labels of a row are separated by '|'.")] = False,
    regression: Annotated[bool, typer.Option("--regression", help="The label is a number.")] = False,
    text_column: TextColumn = None,
    pair_column: PairColumn = None,
    label_column: LabelColumn = None,
    overwrite: Overwrite = False,
    seed: Seed = 0,
) -> None:
    """Train a teacher: a pre-trained encoder on a table of labelled texts."""
    from distill.finetuning import finetune as run
    from distill.settings import TrainingSettings

    settings = TrainingSettings(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        max_length=max_length,
        metric=metric,
        seed=seed,
    )
    record = run(
        model,
        train,
        dev,
        output,
        settings,
        columns(text_column, pair_column, label_column),
        multi_label=multi_label,
        regression=regression,
        overwrite=overwrite,
    )
    _say_result(record, output)


def distill(
    teacher: Annotated[str, typer.Option(help="Fine-tuned classifier: a directory, or a name on the Hub.")],
    layers: Annotated[int, typer.Option(help="Layers of the student.")],
    train: Train,
    dev: Dev,
    output: Output,
    method: Annotated[str, typer.Option(help="finetune, kd, pkd-skip or pkd-last.")] = "pkd-skip",
    init: Annotated[
        str,
        typer.Option(
            help="The student starts as the first layers of the `pretrained` model, as the teacher's "
            "first (`teacher-first`), or as every n/k-th of the teacher (`teacher-skip`)."
        ),
    ] = "pretrained",
    base: Annotated[str | None, typer.Option(help="Pre-trained model, where the teacher does not name it.")] = None,
    temperature: Annotated[float, typer.Option(help="T of the soft targets.")] = 5.0,
    alpha: Annotated[float, typer.Option(help="Share of the soft-target loss.")] = 0.7,
    beta: Annotated[float, typer.Option(help="Weight of the patience loss.")] = 100.0,
    epochs: Epochs = 4,
    batch_size: BatchSize = 32,
    learning_rate: LearningRate = 5e-5,
    max_length: MaxLength = None,
    metric: Metric = None,
    text_column: TextColumn = None,
    pair_column: PairColumn = None,
    label_column: LabelColumn = None,
    overwrite: Overwrite = False,
    seed: Seed = 0,
) -> None:
    """Train a student of fewer layers from a teacher (Patient Knowledge Distillation)."""
    from distill.distillation import distill as run
    from distill.settings import DistillationSettings, TrainingSettings

    training = TrainingSettings(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        max_length=max_length,
        metric=metric,
        seed=seed,
    )
    settings = DistillationSettings(layers, method, init, temperature, alpha, beta, base, training)
    record = run(
        teacher,
        train,
        dev,
        output,
        settings,
        columns(text_column, pair_column, label_column),
        overwrite=overwrite,
    )
    _say_result(record, output)


def export(
    model_dir: Annotated[Path, typer.Argument(help="Directory of a teacher or student.")],
    output: Output,
    precision: Annotated[str, typer.Option(help="fp32.")] = "fp32",
    with_weights: Annotated[
        bool, typer.Option("--with-weights", help="Put the weights in too, for `--engine torch`.")
    ] = False,
    dev: Annotated[
        str | None, typer.Option(help="Table whose texts the export is checked on; shipped messages otherwise.")
    ] = None,
    text_column: TextColumn = None,
    pair_column: PairColumn = None,
    label_column: LabelColumn = None,
    overwrite: Overwrite = False,
    seed: Seed = 0,
) -> None:
    """Turn a model into a verified ONNX bundle."""
    from demo.messages import DEV
    from export.exporting import export as run

    run(
        model_dir,
        output,
        checked_on=dev or str(DEV),
        precision=precision,
        with_weights=with_weights,
        columns=columns(text_column, pair_column, label_column) if dev else columns(None, None, None),
        overwrite=overwrite,
        seed=seed,
    )


def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Where models, bundles and the report are kept.")
    ] = Path("understudy-demo"),
    serve: Annotated[bool, typer.Option("--serve/--no-serve", help="Serve the student when done.")] = True,
    model: Annotated[str, typer.Option(help="Pre-trained model of the teacher.")] = "all-MiniLM-L6-v2",
    port: Annotated[int, typer.Option(help="Port of the server.")] = 8000,
    seed: Seed = 0,
) -> None:
    """From shipped messages to a running classifier: teacher, student, bundles, benchmark, server."""
    from demo.steps import run_demo

    run_demo(output, model=model, serve=serve, port=port, seed=seed)


def _say_result(record: Any, output: Path) -> None:
    truncated = record.truncated
    if truncated["train"] or truncated["dev"]:
        say(
            f"Truncated at {record.settings['max_length']} tokens: {truncated['train']} train rows, "
            f"{truncated['dev']} dev rows."
        )
    score = record.best[record.metric]
    line = f"Dev {record.metric} {score:.4f} (epoch {record.best_epoch})"
    if record.teacher is not None:
        reference = record.teacher["dev"][record.metric]
        line += f", teacher {reference:.4f}"
        if reference > 0 and record.metric not in LOWER_IS_BETTER:
            line += f", {100 * score / reference:.1f} % kept"
    say(f"{line}; {record.wall_time_s:.0f} s. Written to {output}")
