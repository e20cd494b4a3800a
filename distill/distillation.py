"""`distill`: a teacher and a labelled table into a student of k layers (Patient Knowledge Distillation)."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.examples import BY_USUAL_NAMES, Columns, read_examples
from common.files import check_output, staged_directory
from common.labels import Task
from common.metrics import choose_metric, evaluate
from common.progress import say
from common.tokenization import model_max_length
from distill.batches import TokenizedSet
from distill.layer_map import initial_layers, patience_layers
from distill.models import load_classifier, load_config, load_tokenizer, make_encoder, make_student, save_model
from distill.objective import pkd_objective
from distill.record import TrainingRecord, read_record
from distill.settings import DistillationSettings
from distill.sources import Source, find_model
from distill.teacher import teacher_targets
from distill.training import choose_device, fit, make_repeatable, predict, tokenize
from distill.unlabelled import add_unlabelled, read_unlabelled


def distill(
    teacher: str,
    train: str,
    dev: str,
    output: Path,
    settings: DistillationSettings,
    columns: Columns = BY_USUAL_NAMES,
    *,
    unlabelled: str | None = None,
    overwrite: bool = False,
) -> TrainingRecord:
    """Trains a student and writes it to `output` in the Hub's layout, with `distillation.json`.

    Args:
        teacher: a fine-tuned classifier's directory, or a name on the Hub.
        train, dev: tables, or `hub:NAME[/CONFIG]`.
        unlabelled: one more table, whose texts the teacher labels: for them the loss has the teacher's terms alone.

    Raises:
        InputError: a teacher, a table or a label that will not do; a student no shallower than its teacher; a base
            model that cannot be found or is not the one the teacher came from; unlabelled texts for a method that does
            not ask the teacher.
        WorkFailedError: the loss left the finite numbers.
    """
    started = time.monotonic()
    check_output(output, directory=True, overwrite=overwrite)
    source = find_model(teacher)
    if output.exists() and output.samefile(source.path):
        raise InputError(f"{output} is the teacher itself: choose another output")
    config = load_config(source)
    task = Task.from_config(config.to_dict())
    depth = config.num_hidden_layers
    matched = patience_layers(settings.method, depth, settings.layers)
    if unlabelled is not None and not settings.soft_weight and not (settings.patience_weight and matched):
        raise InputError(
            "--unlabelled needs a loss with the teacher's answers in it: choose --method kd, pkd-skip or pkd-last, and "
            "an alpha or a beta above 0 (a student of one layer has no use for beta)"
        )
    _say_without_patience(settings)
    record_of_teacher = read_record(source.path)
    start, base = _starting_point(settings, source, record_of_teacher)
    first = initial_layers(settings.init, load_config(start).num_hidden_layers, settings.layers)
    train_examples = read_examples(train, columns, split="train")
    dev_examples = read_examples(dev, columns, split="validation")
    unlabelled_examples = None if unlabelled is None else read_unlabelled(unlabelled, columns)
    metric = choose_metric(task, settings.training.metric or (record_of_teacher or {}).get("metric"))
    tokenizer = load_tokenizer(source)
    _check_tokenizers(start, source, tokenizer)
    own_limit = model_max_length({"model_max_length": tokenizer.model_max_length}, config.to_dict())
    encoder = make_encoder(tokenizer, config, settings.training.max_length or own_limit)
    data = tokenize(train_examples, dev_examples, task, encoder, config.vocab_size)
    tables = {"train": train_examples.describe(), "dev": dev_examples.describe()}
    if unlabelled_examples is not None:
        data, tables["unlabelled"] = add_unlabelled(data, unlabelled_examples, train_examples, config.vocab_size)
    labelled = len(train_examples)
    others = f", and {len(data.train) - labelled:,} without a label" if unlabelled_examples is not None else ""

    make_repeatable(settings.training.seed)
    teacher_model = load_classifier(source, config)
    say(
        f"Distilling {source.name} ({depth} layers) into {settings.layers} layers by {settings.method} "
        f"on {labelled:,} rows{others}"
    )
    student = make_student(config, start, first, settings.training.seed)
    device = choose_device()
    answers = None
    if settings.soft_weight or settings.patience_weight:
        answers = teacher_targets(teacher_model, encoder, data.train, matched, device)
    # The teacher is measured as it would be served, at its own limit, whatever the student reads.
    own_encoder = make_encoder(tokenizer, config, own_limit)
    own_dev = TokenizedSet(own_encoder.encode(dev_examples.texts), data.dev.targets)
    teacher_metrics = evaluate(task, predict(teacher_model.to(device), own_encoder, own_dev, task), own_dev.targets)
    del teacher_model
    record = TrainingRecord(
        method=settings.method,
        settings={**settings.describe(), "max_length": encoder.max_length},
        problem_type=task.problem_type,
        labels=list(task.labels),
        metric=metric,
        data=tables,
        base_model=base,
        teacher={**source.describe(), "layers": depth, "dev": teacher_metrics},
        layers={"count": settings.layers, "started_as": {"model": start.name, "layers": first}, "matched": matched},
        device=device.type,
    )
    objective = pkd_objective(student, task, settings, answers, labelled)
    fit(student, data, settings.training, record, objective, states=bool(matched))
    record.wall_time_s = round(time.monotonic() - started, 3)
    with staged_directory(output, overwrite=overwrite) as staging:
        save_model(student, tokenizer, staging, encoder.max_length)
        record.write(staging)
    return record


def _starting_point(
    settings: DistillationSettings, teacher: Source, record: dict[str, Any] | None
) -> tuple[Source, dict[str, str] | None]:
    """Where the student's layers come from, and what is known of the base model.

    Raises:
        InputError: the pre-trained model is asked for and is unknown, absent, or not the one the teacher came from.
    """
    base = record["base_model"] if record else None
    if settings.init != "pretrained":
        return teacher, base
    other_ways = "pass --base NAME_OR_DIR, or start from the teacher: --init teacher-skip or --init teacher-first"
    if settings.base is None and base is None:
        raise InputError(f"'{teacher.name}' does not say which pre-trained model it came from: {other_ways}")
    try:
        source = find_model(settings.base or str(base and base["name"]))
    except InputError as error:
        raise InputError(
            f"the teacher's pre-trained model is needed and cannot be had ({error}): {other_ways}"
        ) from None
    if settings.base is None and base is not None and source.sha256 != base["sha256"]:
        raise InputError(f"'{source.name}' is no longer the model that the teacher was made from: {other_ways}")
    return source, source.describe()


def _check_tokenizers(start: Source, teacher: Source, tokenizer: Any) -> None:
    """Word embeddings mean nothing under another vocabulary."""
    if start.path == teacher.path:
        return
    if load_tokenizer(start).get_vocab() != tokenizer.get_vocab():
        raise InputError(f"'{start.name}' and the teacher '{teacher.name}' have different vocabularies")


def _say_without_patience(settings: DistillationSettings) -> None:
    if settings.layers == 1 and settings.patience_weight:
        say("A student of one layer has no layer below its last: without patience this is plain KD.")
