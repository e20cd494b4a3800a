"""`demo`: from the shipped messages to a running classifier, step by step; what an earlier run left is used again."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.bench.bench import bench
from benchmarks.bench.report.schema import read_results
from benchmarks.bench.report.summary import print_summary
from benchmarks.bench.settings import MULTI_STREAM, OFFLINE, SINGLE_STREAM, BenchSettings
from common.errors import InputError
from common.files import made_here, sha256
from common.progress import say
from demo.messages import DEV, TRAIN
from distill.distillation import distill
from distill.finetuning import finetune
from distill.record import read_record
from distill.settings import DistillationSettings, TrainingSettings
from distill.sources import find_model, weights_sha256
from export.bundle import MODEL_FILE, Bundle
from export.exporting import export
from export.settings import OPSET, ExportSettings
from serve.repository import ModelSource
from serve.server import listen, run_server
from serve.settings import ServiceSettings
from serve.shadow import ShadowSettings

# Few rows and little time: a higher rate than the paper's grid for large tasks, and the student starts as every
# second layer of the fine-tuned teacher, which needs far fewer steps than starting from the pre-trained model.
_HOST = "127.0.0.1"
LEARNING_RATE = 3e-4
TEACHER_EPOCHS = 3
STUDENT_EPOCHS = 6
STUDENT_LAYERS = 3
# A first impression: little time of each scenario and model, and not the one that searches.
BENCH_SCENARIOS = (SINGLE_STREAM, MULTI_STREAM, OFFLINE)
BENCH_SECONDS = 3.0


def run_demo(output: Path, *, model: str, serve: bool, port: int, seed: int) -> None:
    """Fine-tunes, distils, exports, benchmarks and serves.

    Args:
        output: where models, bundles and the report are kept.
        model: pre-trained model of the teacher.

    Raises:
        InputError: the output holds something else, the model cannot be had, or the port is in use.
        WorkFailedError: a step failed.
    """
    started = time.monotonic()
    teacher, student = output / "teacher", output / "student"
    bundles = output / "teacher-bundle", output / "student-bundle"
    report = output / "report"
    _check(output, (teacher, student, *bundles, report))
    if serve:
        # It is needed in the end, and known to be free before an hour's work.
        listen(_HOST, port).close()
    training = TrainingSettings(epochs=TEACHER_EPOCHS, learning_rate=LEARNING_RATE, seed=seed)

    say("1 of 5: the teacher")
    base = find_model(model)
    _reuse_or_make(
        teacher,
        lambda: _matches_training(teacher, base.sha256, "base_model", vars(training)),
        lambda: finetune(model, str(TRAIN), str(DEV), teacher, training, overwrite=True),
    )
    say("2 of 5: the student")
    settings = DistillationSettings(
        layers=STUDENT_LAYERS,
        method="pkd-skip",
        init="teacher-skip",
        training=TrainingSettings(epochs=STUDENT_EPOCHS, learning_rate=LEARNING_RATE, seed=seed),
    )
    _reuse_or_make(
        student,
        lambda: _matches_training(student, weights_sha256(teacher), "teacher", settings.describe()),
        lambda: distill(str(teacher), str(TRAIN), str(DEV), student, settings, overwrite=True),
    )
    say("3 of 5: the bundles")
    for directory, bundle in zip((teacher, student), bundles, strict=True):
        _reuse_or_make(
            bundle,
            lambda made=directory, bundle=bundle: _matches_bundle(bundle, made),  # type: ignore[misc]
            lambda made=directory, bundle=bundle: export(  # type: ignore[misc]
                made,
                bundle,
                checked_on=str(DEV),
                settings=ExportSettings(labelled=True, seed=seed),
                overwrite=True,
            ),
        )
    say("4 of 5: student against teacher")
    _reuse_or_make(
        report,
        lambda: _matches_report(report, bundles),
        lambda: bench(
            [bundles[1]],
            report,
            BenchSettings(scenarios=BENCH_SCENARIOS, seconds=BENCH_SECONDS, seed=seed),
            teacher=bundles[0],
            data=str(DEV),
            overwrite=True,
            quiet=True,
        ),
    )
    print_summary(read_results(report))
    say(f"Ready after {time.monotonic() - started:.0f} s; everything is in {output}, the report in {report}")
    if serve:
        say("5 of 5: the server")
        beside = ServiceSettings((ModelSource(bundles[1]),), ModelSource(bundles[0]), shadow=ShadowSettings(share=1.0))
        run_server(beside, host=_HOST, port=port)
    else:
        say(f"Serve the student with: understudy serve {bundles[1]}")


def _reuse_or_make(path: Path, fits: Callable[[], bool], make: Callable[[], Any]) -> None:
    """Keeps what an earlier run left at `path` if it was made from the same things, else makes it anew."""
    if path.exists() and fits():
        say(f"  {path} is there from an earlier run and is used again")
        return
    make()


def _check(output: Path, parts: tuple[Path, ...]) -> None:
    if output.exists() and not output.is_dir():
        raise InputError(f"{output} is a file, not a directory: choose another with -o")
    for part in parts:
        if part.exists() and not made_here(part):
            raise InputError(f"{part} was not made by Understudy: choose another directory with -o")


def _matches_training(directory: Path, source_sha256: str, role: str, settings: dict[str, Any]) -> bool:
    """Whether this release trained a model from these weights and the shipped messages with these settings."""
    try:
        record = read_record(directory)
        return (
            record is not None
            and (record[role] or {}).get("sha256") == source_sha256
            and record["data"]["train"]["sha256"] == sha256(TRAIN)
            and record["data"]["dev"]["sha256"] == sha256(DEV)
            # The length limit is resolved while training, so what was asked for does not stand there.
            and all(record["settings"][name] == value for name, value in settings.items() if name != "max_length")
            and record["versions"]["understudy"] == version("understudy")
            and bool(weights_sha256(directory))
        )
    except (InputError, KeyError, TypeError):
        return False


def _matches_bundle(bundle: Path, model: Path) -> bool:
    """Whether a bundle is whole and this release exported it from these weights."""
    try:
        manifest = Bundle.load(bundle).manifest
        made_so = manifest.opset == OPSET and manifest.versions["understudy"] == version("understudy")
        return bool(made_so and manifest.made_from["model"]["sha256"] == weights_sha256(model))
    except (InputError, KeyError, TypeError):
        return False


def _matches_report(report: Path, bundles: tuple[Path, Path]) -> bool:
    """Whether a report was made from these two bundles."""
    try:
        measured = [model.sha256 for model in read_results(report).models]
        return measured == [Bundle.load(path).manifest.files[MODEL_FILE]["sha256"] for path in bundles]
    except InputError:
        return False
