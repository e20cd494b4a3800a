"""The study's models: encoders, pretrained or random, and the classifiers that they become."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from benchmarks.studies.lines import pack
from benchmarks.studies.pkd.models import TaskRun, machine, setting_of
from benchmarks.studies.pretraining.plan import Cell, EncoderPlan, settings_of
from benchmarks.studies.pretraining.rows import ClassifierRow, EncoderRow
from common.files import read_json, sha256, staged_directory
from distill.finetuning import finetune
from distill.models import save_tokenizer
from distill.pretraining.corpus import Corpus
from distill.pretraining.pretraining import OBJECTIVES, pretrain
from distill.pretraining.record import RECORD_FILE
from distill.pretraining.start import BUILT_IN_VOCABULARY, find_start, make_model
from distill.pretraining.tokenizer import as_transformers, train_tokenizer
from distill.sources import Source, find_model
from distill.sweep.runs import measure

# Of the corpus: a text a line.
DOCUMENTS = "line"


def tokenizer(family: str, corpus: Path, directory: Path, max_length: int) -> Path:
    """The directory of a family's tokenizer, trained on the corpus by an earlier call or now."""
    if not directory.exists():
        texts = Corpus([corpus], DOCUMENTS).texts
        trained = train_tokenizer(family, texts, BUILT_IN_VOCABULARY, cased=False)
        with staged_directory(directory) as staging:
            save_tokenizer(as_transformers(trained, family, max_length), staging, max_length)
    return directory


def encoder(plan: EncoderPlan, corpus: Path, tokenizer: Path, work: Path) -> Source:
    """An encoder's directory, made by an earlier call or now; a killed one goes on."""
    directory = work / "encoders" / plan.name
    if directory.exists():
        return find_model(str(directory))
    if plan.pretrained:
        pretrain([corpus], directory, plan.settings, tokenizer=tokenizer, documents=DOCUMENTS)
        return find_model(str(directory))
    start = find_start(plan.settings, None, None, tokenizer)
    model = make_model(start, start.tokenizer, plan.settings.seed)
    objective = OBJECTIVES[plan.settings.objective](model, start.tokenizer, plan.settings)
    with staged_directory(directory) as staging:
        objective.save(staging)
        save_tokenizer(start.tokenizer, staging, plan.settings.max_length)
    return find_model(str(directory))


def encoder_row(plan: EncoderPlan, corpus: Path, source: Source) -> EncoderRow:
    """What there is to say of an encoder."""
    about = {"sha256": sha256(corpus), "lines": Corpus([corpus], DOCUMENTS).lines}
    row: dict[str, Any] = {
        "encoder": plan.name,
        "settings": plan.settings.describe(),
        "corpus": about,
        "weights_sha256": source.sha256,
        "parameters": _parameters(source),
        "machine": machine(),
    }
    if not (source.path / RECORD_FILE).exists():
        return EncoderRow(**row)
    record = read_json(source.path / RECORD_FILE)
    return EncoderRow(
        **row,
        tokens=record["tokens"],
        epochs=record["epochs"],
        losses=record["losses"][-1],
        wall_time_s=record["wall_time_s"],
    )


def classifier_row(task_run: TaskRun, source: Source, cell: Cell) -> ClassifierRow:
    """Fine-tunes a cell's encoder, from where a killed study left it, and measures it on dev."""
    tables, settings = task_run.tables, settings_of(cell, task_run.plan)
    directory = task_run.work / "classifiers" / f"{cell.encoder}-{cell.rate:g}-{cell.seed}"
    record = finetune(
        str(source.path), str(tables.train), str(tables.holdout), directory, settings, tables.columns, overwrite=True
    )
    model = find_model(str(directory))
    measured = measure(model, setting_of(task_run, model))
    shutil.rmtree(directory)
    return ClassifierRow(
        encoder=cell.encoder,
        task=cell.task,
        rate=cell.rate,
        seed=cell.seed,
        settings=dict(vars(settings)),
        data=tables.describe(),
        encoder_sha256=source.sha256,
        chosen_on=record.best,
        dev=measured.metrics,
        answers=pack(measured.answers, len(tables.task.labels)),
        best_epoch=record.best_epoch,
        wall_time_s=record.wall_time_s,
        machine=machine(),
    )


def _parameters(source: Source) -> int:
    from safetensors import safe_open

    with safe_open(source.path / "model.safetensors", framework="pt") as weights:
        return sum(torch.Size(weights.get_slice(name).get_shape()).numel() for name in weights.keys())  # noqa: SIM118
