"""`export`: a trained model into a bundle, which appears only once the exported model has proved to be the same."""

from __future__ import annotations

import platform
import random
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnxruntime

from common.errors import InputError
from common.examples import BY_USUAL_NAMES, Columns, Examples, read_examples
from common.files import check_output, staged_directory
from common.progress import say, working
from common.tokenization import model_max_length
from distill.models import (
    input_names,
    load_classifier,
    load_config,
    load_tokenizer,
    make_encoder,
    save_tokenizer,
)
from distill.record import read_record
from distill.sources import Source, find_model
from export.activation_ranges import activation_ranges
from export.bundle import MODEL_FILE, Manifest
from export.contents import describe_graph
from export.dev_rows import dev_rows
from export.exported_graph import ExportedGraph
from export.finishing import finish_bundle, say_result
from export.onnx_graph import check_exportable, check_opset, export_graph
from export.precision import Tools, lower_precision
from export.proofs import PrecisionProof
from export.served import Served
from export.settings import FP16, FP32, ExportSettings
from export.task import bundle_task
from export.verification import check_texts, mixed_texts, verify

_USUAL = ExportSettings()


def export(
    model_dir: Path,
    output: Path,
    *,
    checked_on: str,
    settings: ExportSettings = _USUAL,
    columns: Columns = BY_USUAL_NAMES,
    overwrite: bool = False,
) -> Manifest:
    """Writes a verified bundle.

    Args:
        model_dir: a classifier's directory.
        checked_on: a table of at least 64 real texts; with `settings.labelled`, of dev rows with the task's labels.

    Raises:
        InputError: the directory is no classifier that can be exported, or the table will not do.
        WorkFailedError: the graph cannot be made, does not answer as the model does, or loses too much in the precision
            asked for.
    """
    check_output(output, directory=True, overwrite=overwrite)
    check_opset(settings.opset)
    source = find_model(str(model_dir))
    config = load_config(source)
    check_exportable(config, source.name)
    task = bundle_task(config, source.name)
    examples = read_examples(checked_on, columns, split="validation", need_label=settings.labelled)
    check_texts(examples)
    tokenizer = load_tokenizer(source)
    encoder = make_encoder(tokenizer, config, _length_limit(tokenizer, config))
    record = read_record(source.path)
    metric = settings.metric or (record["metric"] if record else None)
    rows = None
    if settings.labelled:
        rows = dev_rows(examples, task, encoder, metric, calibrated=settings.calibrate, seed=settings.seed)
    train = _training_rows(settings, columns, examples) if settings.calibration_rows else None
    model = load_classifier(source, config).eval()
    names = input_names(model)
    say(f"Exporting {source.name} ({config.num_hidden_layers} layers) to ONNX, opset {settings.opset}")
    with staged_directory(output, overwrite=overwrite) as staging, tempfile.TemporaryDirectory() as scratch:
        path = staging / MODEL_FILE
        with working("tracing the model"):
            export_graph(model, names, path, settings.opset)
        config.architectures = [type(model).__name__]
        if settings.with_weights:
            model.save_pretrained(staging)
        config.save_pretrained(staging)
        weights = staging if settings.with_weights else None
        graph = ExportedGraph(path, encoder, settings.device)
        verification = verify(graph, encoder, examples, task, settings.seed, model=model, weights=weights)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        proof = None
        if rows is not None and settings.precision != FP32:
            tools = Tools(
                open=lambda file, precision: ExportedGraph(file, encoder, settings.device, precision),
                export_half=lambda file: export_graph(model.half(), names, file, settings.opset),
                others=encoder.encode(
                    mixed_texts(examples.texts, encoder, random.Random(settings.seed), pairs="token_type_ids" in names)
                ),
                ranges=None
                if train is None
                else lambda: activation_ranges(path, encoder, train, examples.texts, Path(scratch), settings.seed),
                directory=Path(scratch),
            )
            proof = lower_precision(path, rows, settings, tools)
        precision = FP32 if proof is None else proof.precision
        calibration, measured = None, _measured(record, proof)
        if rows is not None:
            logits = ExportedGraph(path, encoder, settings.device, precision).all_logits(
                rows.encoded, doing="calibrating"
            )
            calibration = rows.calibration(logits)
            served = Served.by(task, calibration)
            # Training measured at one half each.
            if record is None or rows.metric != record["metric"] or served.task.thresholds:
                dev = record and (record["metric"], record["data"]["dev"]["sha256"])
                teacher = measured["teacher_value"] if dev == (rows.metric, rows.data["sha256"]) else None
                measured = {**rows.measured(logits, served, precision), "teacher_value": teacher}
        save_tokenizer(tokenizer, staging, encoder.max_length)
        manifest = Manifest(
            name=output.resolve().name,
            layers=config.num_hidden_layers,
            parameters=parameters,
            inputs=list(names),
            max_length=encoder.max_length,
            precision=precision,
            opset=settings.opset,
            made_from=_made_from(source, record),
            measured=measured,
            verification=verification,
            versions={
                "python": platform.python_version(),
                **{name: version(name) for name in ("understudy", "torch", "transformers", "onnx")},
                "onnxruntime": onnxruntime.__version__,
            },
            precision_proof=proof,
            calibration=calibration,
            contents=describe_graph(path),
            not_run=["cuda"] if precision == FP16 and graph.device != "cuda" else [],
        )
        finish_bundle(manifest, task, staging)
    say_result(manifest, task, output)
    return manifest


def _training_rows(settings: ExportSettings, columns: Columns, dev: Examples) -> Examples:
    assert settings.calibration_rows is not None
    train = read_examples(settings.calibration_rows, columns, need_label=False)
    if train.sha256 == dev.sha256:
        raise InputError("--train and --dev are the same table: ranges come from training rows, the judgement does not")
    return train


def _length_limit(tokenizer: Any, config: Any) -> int:
    return model_max_length({"model_max_length": tokenizer.model_max_length}, config.to_dict())


def _made_from(source: Source, record: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "model": source.describe(),
        **{key: (record or {}).get(key) for key in ("teacher", "base_model", "method", "layers", "settings", "data")},
    }


def _measured(record: dict[str, Any] | None, proof: PrecisionProof | None) -> dict[str, Any]:
    """The dev metrics that training left, or the lower precision's own where they are of the same table; empty for a
    model that Understudy did not train."""
    if record is None:
        return {}
    metric, dev, teacher = record["metric"], record["data"]["dev"], record["teacher"]
    same = proof is not None and (proof.metric, proof.data["sha256"]) == (metric, dev["sha256"])
    return {
        "metric": metric,
        "split": dev["name"],
        "value": proof.value if proof is not None and same else record["best_dev"][metric],
        "precision": proof.precision if proof is not None and same else FP32,
        "teacher_value": teacher["dev"][metric] if teacher else None,
    }
