"""`distill`: a teacher and a labelled table into a student of k layers (Patient Knowledge Distillation)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.examples import BY_USUAL_NAMES, Columns, read_examples
from common.files import check_output
from common.labels import Task, activate
from common.metrics import choose_metric, evaluate
from common.progress import say
from common.tokenization import model_max_length
from distill.augmentation import add_augmented
from distill.batches import TokenizedSet
from distill.checkpoint import sole_run
from distill.compatibility import check_labels, check_tokenizers
from distill.layer_map import initial_layers, patience_layers
from distill.live_teacher import LiveTeacher
from distill.models import load_classifier, load_config, load_tokenizer, make_encoder
from distill.objective import DistillationObjective
from distill.pretraining.infoword import DeepInfoMax
from distill.processes import launched, one_voice
from distill.record import TrainingRecord, read_record
from distill.result import write_result
from distill.settings import DistillationSettings
from distill.sources import Source, find_model
from distill.students import make_student
from distill.teacher import Teacher, teacher_targets
from distill.teacher_cache import check_cache
from distill.training import choose_device, fit, make_repeatable
from distill.training_data import encode, tokenize
from distill.unlabelled import add_unlabelled, read_unlabelled


@one_voice()
def distill(
    teacher: str,
    train: str,
    dev: str,
    output: Path,
    settings: DistillationSettings,
    columns: Columns = BY_USUAL_NAMES,
    *,
    unlabelled: str | None = None,
    reported: Sequence[str] = (),
    cache: Path | None = None,
    overwrite: bool = False,
) -> TrainingRecord:
    """Trains a student and writes it to `output` in the Hub's layout, with `distillation.json`.

    A run that was killed goes on where its last checkpoint was, if it is asked for again (`checkpoint.sole_run`).

    Args:
        teacher: a fine-tuned classifier's directory, or a name on the Hub.
        train, dev: tables, or `hub:NAME[/CONFIG]`.
        unlabelled: one more table, whose texts the teacher labels: for them the loss has the teacher's terms alone.
        reported: further tables, of which no text is learned from: those that the student is measured on later.
        cache: where the teacher's answers are kept, for this run and others (`teacher_cache.default_cache` is the
            command's); None keeps them in memory, for this run alone.

    Raises:
        InputError: a teacher, a table or a label that will not do; a student no shallower than its teacher; a base
            model that cannot be found or is not the one the teacher came from; unlabelled texts for a method that does
            not ask the teacher.
        WorkFailedError: the loss left the finite numbers.
    """
    started = time.monotonic()
    check_output(output, directory=True, overwrite=overwrite)
    settings.check_processes(launched().count)
    if cache is not None:
        check_cache(cache)
    source = find_model(teacher)
    if output.exists() and output.samefile(source.path):
        raise InputError(f"{output} is the teacher itself: choose another output")
    config = load_config(source)
    task = Task.from_config(config.to_dict())
    depth = config.num_hidden_layers
    matched = patience_layers(settings.method, depth, settings.layers, narrower=settings.width is not None)
    if not settings.patience_weight:
        matched = ()
    check_unlabelled(settings, unlabelled)
    _say_without_patience(settings)
    record_of_teacher = read_record(source.path)
    check_labels(source, task, record_of_teacher)
    start, base = starting_point(settings, source, record_of_teacher)
    first = initial_layers(settings.init, load_config(start).num_hidden_layers, settings.layers)
    train_examples = read_examples(train, columns, split="train")
    dev_examples = read_examples(dev, columns, split="validation")
    unlabelled_examples = None if unlabelled is None else read_unlabelled(unlabelled, columns)
    metric = choose_metric(task, settings.training.metric or (record_of_teacher or {}).get("metric"))
    tokenizer = load_tokenizer(source)
    own_limit = model_max_length({"model_max_length": tokenizer.model_max_length}, config.to_dict())
    encoder = make_encoder(tokenizer, config, settings.training.max_length or own_limit)
    check_tokenizers(start, source, tokenizer, config, encoder, train_examples.texts[:64])
    data = tokenize(train_examples, dev_examples, task, encoder, config.vocab_size)
    tables = {"train": {**train_examples.describe(), **data.describe()}, "dev": dev_examples.describe()}
    for table in reported:
        texts = read_examples(table, columns, split="validation", need_label=False, read_labels=False)
        data = replace(data, reported=[*data.reported, *encode(texts, train_examples, encoder, config.vocab_size)])
    if unlabelled_examples is not None:
        data, tables["unlabelled"] = add_unlabelled(data, unlabelled_examples, train_examples, config.vocab_size)
    if settings.augment:
        mask, before = tokenizer.mask_token, len(data.train)
        data = add_augmented(data, train_examples.texts, settings.augment, mask, settings.training.seed)
        tables["train"]["augmented"] = len(data.train) - before
    labelled = len(train_examples)
    others = f", and {len(data.train) - labelled:,} without a label" if len(data.train) > labelled else ""

    make_repeatable(settings.training.seed)
    lead = Teacher(source, load_classifier(source, config), choose_device())
    with sole_run(output, overwrite=overwrite) as checkpoint:
        say(
            f"Distilling {source.name} ({depth} layers) into {settings.layers} layers by {settings.method} "
            f"on {labelled:,} rows{others}"
        )
        shape = {"width": settings.width, "heads": settings.heads}
        student = make_student(config, start, first, settings.training.seed, scale=data.scale, **shape)
        live = LiveTeacher(lead.model, student, settings, lead.device) if settings.matches_tokens else None
        dim = DeepInfoMax(student, tokenizer) if settings.dim_weight else None
        answers = None
        if settings.soft_weight or settings.patience_weight:
            answers = teacher_targets(lead, encoder, data.train, matched, cache)
            answers = replace(answers, logits=data.scale.standardized(answers.logits))
        # The teacher is measured as it would be served, at its own limit, whatever the student reads.
        own_encoder = make_encoder(tokenizer, config, own_limit)
        own_dev = TokenizedSet(own_encoder.encode(dev_examples.texts), data.dev.targets)
        own_scores = activate(teacher_targets(lead, own_encoder, own_dev, (), cache).logits.numpy(), task.problem_type)
        del lead  # its memory is the student's now
        record = TrainingRecord(
            method=settings.method,
            settings={**settings.describe(), "max_length": encoder.max_length},
            problem_type=task.problem_type,
            labels=list(task.labels),
            metric=metric,
            data=tables,
            base_model=base,
            teacher={**source.describe(), "layers": depth, "dev": evaluate(task, own_scores, own_dev.targets)},
            layers={"count": settings.layers, "started_as": {"model": start.name, "layers": first}, "matched": matched},
            device="",
        )
        objective = DistillationObjective(student, task, settings, answers, labelled, live, dim)
        fit(student, data, settings.training, record, objective, checkpoint)
        record.wall_time_s = round(record.wall_time_s + time.monotonic() - started, 3)
        write_result(output, student, tokenizer, encoder.max_length, record, checkpoint, overwrite=overwrite)
    return record


def check_unlabelled(settings: DistillationSettings, unlabelled: str | None) -> None:
    """
    Raises:
        InputError: there are texts without a label, or copies of texts, and the loss has nothing to learn from them.
    """
    if (unlabelled is not None or settings.augment) and not settings.needs_teacher:
        flag = "--augment" if unlabelled is None else "--unlabelled"
        raise InputError(
            f"{flag} needs a loss with the teacher's answers in it: choose --method kd, pkd-skip, pkd-last or best, "
            "and an alpha or a beta above 0 (a student of one layer has no use for beta)"
        )


def starting_point(
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


def _say_without_patience(settings: DistillationSettings) -> None:
    if settings.layers == 1 and settings.patience_weight:
        say("A student of one layer has no layer below its last: without patience this is plain KD.")
