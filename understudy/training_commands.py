"""`finetune`, `distill`, `export`, `demo`: the arguments; the work is in the rooms."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from common.metrics import LOWER_IS_BETTER
from common.progress import say
from understudy.options import (
    Cache,
    Dev,
    Device,
    LabelColumn,
    Metric,
    NoCache,
    Output,
    Overwrite,
    PairColumn,
    Seed,
    TextColumn,
    Train,
    Unlabelled,
    cache_directory,
    columns,
)

EPOCHS = "Passes over the training rows; the best by dev metric is kept."
PEAK = "AdamW's peak learning rate."
Epochs = Annotated[int, typer.Option(help=EPOCHS)]
BatchSize = Annotated[int, typer.Option(help="Rows a step.")]
LearningRate = Annotated[float, typer.Option(help=PEAK)]
EarlyStopping = Annotated[
    int | None, typer.Option(metavar="EPOCHS", help="Stop after so many epochs without a better dev metric.")
]
Calibrate = Annotated[
    bool, typer.Option("--calibrate/--no-calibrate", help="Fit a temperature (and thresholds) on the dev labels.")
]
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
    early_stopping: EarlyStopping = None,
    max_length: MaxLength = None,
    metric: Metric = None,
    multi_label: Annotated[bool, typer.Option("--multi-label", help="Labels of a row are separated by '|'.")] = False,
    regression: Annotated[bool, typer.Option("--regression", help="The label is a number.")] = False,
    positive: Annotated[
        str | None, typer.Option(metavar="LABEL", help="Of two labels the one that F1 counts as positive.")
    ] = None,
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
        early_stopping=early_stopping,
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
        positive=positive,
        overwrite=overwrite,
    )
    _say_result(record, output)


def distill(
    teacher: Annotated[str, typer.Option(help="Fine-tuned classifier: a directory, or a name on the Hub.")],
    layers: Annotated[int, typer.Option(help="Layers of the student.")],
    train: Train,
    dev: Dev,
    output: Output,
    unlabelled: Unlabelled = None,
    method: Annotated[
        str,
        typer.Option(help="finetune, kd, pkd-skip, pkd-last, or best; it decides what is left open below."),
    ] = "pkd-skip",
    init: Annotated[
        str | None,
        typer.Option(
            help="The student starts as the first layers of the `pretrained` model (the paper's way), as the teacher's "
            "first (`teacher-first`), or as every n/k-th of the teacher (`teacher-skip`)."
        ),
    ] = None,
    base: Annotated[str | None, typer.Option(help="Pre-trained model, where the teacher does not name it.")] = None,
    width: Annotated[int | None, typer.Option(help="Hidden size of the student, where it is to be narrower.")] = None,
    heads: Annotated[int | None, typer.Option(help="Attention heads of a narrower student.")] = None,
    temperature: Annotated[float | None, typer.Option(help="T of the soft targets.")] = None,
    alpha: Annotated[float | None, typer.Option(help="Share of the soft-target loss.")] = None,
    beta: Annotated[float | None, typer.Option(help="Weight of the patience loss.")] = None,
    hidden_weight: Annotated[
        float | None, typer.Option(help="Weight of the states of all tokens (TinyBERT); the teacher runs along.")
    ] = None,
    relation_weight: Annotated[
        float | None, typer.Option(help="Weight of the self-attention relations; the teacher runs along.")
    ] = None,
    relations: Annotated[
        str | None, typer.Option(help="minilmv2 (queries, keys, values) or minilm (attention, values).")
    ] = None,
    relation_layer: Annotated[int | None, typer.Option(help="The teacher's layer with them; its last.")] = None,
    relation_heads: Annotated[int | None, typer.Option(help="Heads of MiniLMv2's relations; the teacher's.")] = None,
    dim_weight: Annotated[
        float, typer.Option(help="Weight of the mutual information between a text and n-grams hidden in it (InfoWord).")
    ] = 0.0,
    augment: Annotated[
        int | None, typer.Option(help="Altered copies of each training row, which the teacher labels.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help=EPOCHS)] = None,
    batch_size: BatchSize = 32,
    learning_rate: Annotated[float | None, typer.Option(help=PEAK)] = None,
    early_stopping: EarlyStopping = None,
    max_length: MaxLength = None,
    metric: Metric = None,
    text_column: TextColumn = None,
    pair_column: PairColumn = None,
    label_column: LabelColumn = None,
    cache: Cache = None,
    no_cache: NoCache = False,
    overwrite: Overwrite = False,
    seed: Seed = 0,
) -> None:
    """Train a student of fewer layers from a teacher (Patient Knowledge Distillation)."""
    from distill.distillation import distill as run
    from distill.settings import DistillationSettings

    given = {
        "layers": layers,
        "method": method,
        "init": init,
        "base": base,
        "width": width,
        "heads": heads,
        "temperature": temperature,
        "alpha": alpha,
        "beta": beta,
        "hidden_weight": hidden_weight,
        "relation_weight": relation_weight,
        "relations": relations,
        "relation_layer": relation_layer,
        "relation_heads": relation_heads,
        "augment": augment,
        "dim_weight": dim_weight,
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "early_stopping": early_stopping,
        "max_length": max_length,
        "metric": metric,
        "seed": seed,
    }
    settings = DistillationSettings.from_flat(given)
    record = run(
        teacher,
        train,
        dev,
        output,
        settings,
        columns(text_column, pair_column, label_column),
        unlabelled=unlabelled,
        cache=cache_directory(cache, no_cache),
        overwrite=overwrite,
    )
    _say_result(record, output)


def export(
    model_dir: Annotated[Path, typer.Argument(help="Directory of a teacher or student.")],
    output: Output,
    precision: Annotated[
        str,
        typer.Option(
            help="fp32; int8 (a range for each position); int8-static (ranges from --train); fp16 (for CUDA); "
            "auto: the fastest that passes. All but fp32 need --dev."
        ),
    ] = "fp32",
    dev: Annotated[
        str | None,
        typer.Option(
            help="Table that the export is checked on; shipped messages otherwise. Where it has labels, they calibrate "
            "the scores and judge a lower precision."
        ),
    ] = None,
    max_loss: Annotated[
        float, typer.Option(help="Points of the dev metric that a lower precision may cost; else there is no bundle.")
    ] = 0.5,
    metric: Metric = None,
    train: Annotated[str | None, typer.Option(help="Training table, for the ranges of int8-static.")] = None,
    weight_bits: Annotated[
        int | None, typer.Option(help="8, or 7 for processors without VNNI; otherwise what this processor needs.")
    ] = None,
    calibrate: Calibrate = True,
    opset: Annotated[int, typer.Option(help="ONNX opset.")] = 20,
    device: Device = "auto",
    with_weights: Annotated[
        bool, typer.Option("--with-weights", help="Put the weights in too, for `--engine torch`.")
    ] = False,
    text_column: TextColumn = None,
    pair_column: PairColumn = None,
    label_column: LabelColumn = None,
    overwrite: Overwrite = False,
    seed: Seed = 0,
) -> None:
    """Turn a model into a verified ONNX bundle."""
    from common.examples import has_labels
    from demo.messages import DEV
    from export.exporting import export as run
    from export.settings import ExportSettings

    given = columns(text_column, pair_column, label_column)
    settings = ExportSettings(
        precision=precision,
        labelled=dev is not None
        and (precision != "fp32" or metric is not None or (calibrate and has_labels(dev, given))),
        max_loss=max_loss,
        metric=metric,
        calibration_rows=train,
        weight_bits=weight_bits,
        calibrate=calibrate,
        opset=opset,
        device=device,
        with_weights=with_weights,
        seed=seed,
    )
    run(
        model_dir,
        output,
        checked_on=dev or str(DEV),
        settings=settings,
        columns=given if dev else columns(None, None, None),
        overwrite=overwrite,
    )


def adopt(
    directory: Annotated[
        Path, typer.Argument(help="Directory of an ONNX classifier, as `optimum-cli export onnx` makes it.")
    ],
    output: Output,
    dev: Annotated[
        str | None,
        typer.Option(
            help="Table that the model is checked on; shipped messages otherwise. Where it has labels, they measure it "
            "and calibrate its scores."
        ),
    ] = None,
    file: Annotated[str | None, typer.Option(help="Which ONNX file, where there are several.")] = None,
    model: Annotated[
        Path | None, typer.Option(help="The PyTorch classifier it came from; the logits are then compared.")
    ] = None,
    metric: Metric = None,
    calibrate: Calibrate = True,
    device: Device = "auto",
    text_column: TextColumn = None,
    pair_column: PairColumn = None,
    label_column: LabelColumn = None,
    overwrite: Overwrite = False,
    seed: Seed = 0,
) -> None:
    """Turn another tool's ONNX classifier into a verified bundle."""
    from common.examples import has_labels
    from demo.messages import DEV
    from export.adoption import adopt as run
    from export.settings import ExportSettings

    given = columns(text_column, pair_column, label_column)
    labelled = dev is not None and has_labels(dev, given)
    settings = ExportSettings(labelled=labelled, metric=metric, calibrate=calibrate, device=device, seed=seed)
    run(
        directory,
        output,
        checked_on=dev or str(DEV),
        file=file,
        model_dir=model,
        settings=settings,
        columns=given if dev else columns(None, None, None),
        overwrite=overwrite,
    )


def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Where models, bundles and the report are kept.")
    ] = Path("understudy-demo"),
    serve: Annotated[bool, typer.Option("--serve/--no-serve", help="Serve the student when done.")] = True,
    model: Annotated[str, typer.Option(help="Pre-trained model of the teacher.")] = "all-MiniLM-L6-v2",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the server.")] = 8000,
    seed: Seed = 0,
) -> None:
    """From shipped messages to a running classifier: teacher, student, bundles, benchmark, server."""
    from demo.steps import run_demo

    run_demo(output, model=model, serve=serve, port=port, seed=seed)


def _say_result(record: Any, output: Path) -> None:
    from distill.processes import launched

    if not launched().is_first:
        return
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
    if "mse" in record.best and record.metric != "mse":
        line += f", mse {record.best['mse']:.4g}"
    say(f"{line}; {record.wall_time_s:.0f} s. Written to {output}")
