"""`sweep`: many students of one teacher, a row for each, and what their settings are worth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from common.errors import InputError, WorkFailedError, memory_shortage
from common.examples import BY_USUAL_NAMES, Columns, read_examples
from common.files import sha256
from common.labels import Task
from common.metrics import LOWER_IS_BETTER, choose_metric
from common.progress import say, told_to
from distill.augmentation import check_mask
from distill.compatibility import check_tokenizers
from distill.distillation import check_unlabelled, starting_point
from distill.layer_map import initial_layers, patience_layers
from distill.live_teacher import check_heads
from distill.models import load_config, load_tokenizer
from distill.pretraining.infoword import check_mutual_information
from distill.processes import launched
from distill.record import read_record
from distill.relations import check_relations
from distill.sources import Source, find_model
from distill.students import narrow_config
from distill.sweep.frontier import draw_frontier
from distill.sweep.holdout import split_train
from distill.sweep.report import print_summary
from distill.sweep.results import Results, Row, open_results
from distill.sweep.runs import (
    Setting,
    architecture_directory,
    discard_student,
    measure,
    reader,
    row_key,
    run,
)
from distill.sweep.search import configurations
from distill.sweep.space import Space, make_settings, read_space, setting_types
from distill.sweep.speed import measure_speeds
from distill.sweep.summary import TEACHER, Summary, summarise
from distill.sweep.table import RunTable, run_table
from distill.teacher_cache import check_cache
from distill.unlabelled import read_unlabelled


def sweep(
    space: Path,
    teacher: str,
    train: str,
    dev: str,
    output: Path,
    columns: Columns = BY_USUAL_NAMES,
    *,
    unlabelled: str | None = None,
    holdout: float | None = None,
    compare: str = "method",
    cache: Path | None = None,
    keep_students: bool = False,
) -> Summary:
    """Trains the students of a sweep file, as far as `output` lacks their rows, and sums all of them up.

    Args:
        space: the sweep file (`distill.sweep.space`).
        teacher, train, dev, columns, unlabelled, cache: as for `distill.distillation.distill`.
        output: a new directory, or that of the same sweep, to go on with it after a break or with another file.
        holdout: the share of train that picks epochs and configurations, so that dev is left to report; None has dev
            do both.
        compare: the setting whose values are compared with each other, for each kind of student.
        keep_students: whether the students stay, in `output/students`.

    Raises:
        InputError: a sweep file, teacher or table that will not do; an output that is in use, or of another sweep.
        WorkFailedError: no run ended with a student.
    """
    if launched().count > 1:
        raise InputError("a sweep runs in one process; `accelerate launch` is for finetune and distill")
    plan = read_space(space)
    if holdout is not None and not 0 < holdout < 1:
        raise InputError("--holdout is a share of the training rows, between 0 and 1")
    if compare not in setting_types():
        raise InputError(f"'{compare}' is no setting, so its values cannot be compared")
    if compare in ("seed", "layers", "width", "heads"):
        raise InputError(f"'{compare}' cannot be compared: tests are between students of one kind, over all seeds")
    if cache is not None:
        check_cache(cache)
    source = find_model(teacher)
    task = Task.from_config(load_config(source).to_dict())
    _check_students(plan, source, unlabelled)
    metric = choose_metric(task, _metric_of(plan) or (read_record(source.path) or {}).get("metric"))
    train_examples = read_examples(train, columns, split="train")
    dev_examples = read_examples(dev, columns, split="validation")
    for examples in (train_examples, dev_examples):
        task.targets(examples.labels, examples.places)
    about = {
        "teacher": source.describe(),
        "config": sha256(source.path / "config.json"),
        "tokenizer": reader(source).sha256,
        "train": train_examples.describe(),
        "dev": dev_examples.describe(),
        "unlabelled": None if unlabelled is None else read_unlabelled(unlabelled, columns).describe(),
        "columns": vars(columns),
        "holdout": None if holdout is None else {"share": holdout, "copies": "together"},
    }
    with open_results(output, about) as results:
        setting = Setting(source, train, dev, dev_examples, task, unlabelled, columns, cache)
        if holdout is not None:
            place = results.directory / "split"
            parts = split_train(train_examples, columns, task, holdout, place, copies_together=True)
            setting = replace(setting, train=str(parts[0]), chosen_on=str(parts[1]), reported=(dev,))
        table = RunTable(plan.runs, _columns_shown(plan), metric, lower_is_better=metric in LOWER_IS_BETTER)
        with run_table(table):
            rows = list(_rows(plan, setting, results, metric, table, keep_students))
        if not any(row.dev for row in rows):
            raise WorkFailedError(f"no run ended with a student; the first: {rows[0].failed}")
        summary = _summarise(rows, setting, results, metric, compare)
        print_summary(summary, plan.varied)
        say(f"Written to {results.directory}: results.jsonl, summary.json, {draw_frontier(summary, results.directory)}")
    return summary


def _rows(
    plan: Space, setting: Setting, results: Results, metric: str, table: RunTable, keep_students: bool
) -> Iterator[Row]:
    """The row of every run, which is trained where the results lack it."""
    for variant in plan.variants:
        search = configurations(variant, plan.search)
        answer: float | None = None
        while True:
            try:
                configuration = search.send(answer)
            except StopIteration:
                break
            scores = []
            for seed in variant.seeds:
                settings = make_settings(configuration, seed)
                row = results.get(row_key(settings, results))
                if row is None:
                    table.begin(settings.describe())
                    try:
                        with told_to(table.listen):
                            row = run(settings, setting, results)
                    except (InputError, RuntimeError, MemoryError) as error:
                        told = str(error) if isinstance(error, InputError) else memory_shortage(error)
                        if told is None:
                            raise
                        # What no check before the first run found is no reason to lose the others; it is not kept,
                        # since it may lie in the machine, so that the same command tries once more.
                        row = Row(row_key(settings, results), settings.describe(), failed=told)
                    if row.failed or not keep_students:
                        discard_student(results, row.key)
                    table.end(row)
                else:
                    table.known(row)
                scores.append(row.chosen_on[metric] if row.chosen_on else np.nan)
                yield row
            mean = float(np.mean(scores))
            answer = None if np.isnan(mean) else -mean if metric in LOWER_IS_BETTER else mean


def _summarise(rows: list[Row], setting: Setting, results: Results, metric: str, compare: str) -> Summary:
    measured = measure(setting.teacher, setting)
    results.save_answers(TEACHER, measured.answers)
    encoder, encoded = setting.read(setting.teacher)
    names = sorted({row.architecture for row in rows if row.architecture})
    places = {name: architecture_directory(results, name) for name in names}
    speeds = measure_speeds({**places, TEACHER: setting.teacher.path}, encoder, encoded)
    return summarise(rows, results, setting, metric, compare, measured, speeds)


def _check_students(plan: Space, teacher: Source, unlabelled: str | None) -> None:
    """Refuses what no run could be made of, before the first."""
    config, record = load_config(teacher), read_record(teacher.path)
    tokenizer, encoder = load_tokenizer(teacher), reader(teacher)
    depth = config.num_hidden_layers
    depths: dict[tuple[str, str | None], int] = {}  # of what students start from
    for variant in plan.variants:
        for configuration in variant.grid() if plan.search.kind == "grid" else variant.probes():
            settings = make_settings(configuration, variant.seeds[0])
            narrower = settings.width is not None
            patience_layers(settings.method, depth, settings.layers, narrower=narrower)
            student = narrow_config(config, settings.width, settings.heads)
            if settings.relation_weight:
                check_relations(config, settings.relation_layer or depth, settings.relations)
                check_heads(config, student, settings)
            if settings.dim_weight:
                check_mutual_information(student, tokenizer)
            if settings.augment:
                check_mask(tokenizer.mask_token)
            check_unlabelled(settings, unlabelled)
            start = (settings.init, settings.base)
            if start not in depths:
                model = starting_point(settings, teacher, record)[0]
                check_tokenizers(model, teacher, tokenizer, config, encoder, ())
                depths[start] = load_config(model).num_hidden_layers
            initial_layers(settings.init, depths[start], settings.layers)


def _metric_of(plan: Space) -> str | None:
    """The metric that the sweep file asks for, if any."""
    settings = [make_settings(first, 0) for first in (next(variant.probes()) for variant in plan.variants)]
    metrics = {entry.training.metric for entry in settings}
    if len(metrics) > 1 or "metric" in plan.varied:
        raise InputError("'metric' must be the same for all runs, since they are compared by it")
    return metrics.pop()


def _columns_shown(plan: Space) -> list[str]:
    always = ["layers", "method"]
    return [*always, *(name for name in plan.varied if name not in always), "seed"]
