"""`export`: a trained model into a bundle, which appears only once the exported model has proved to be the same."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnxruntime

from common.errors import InputError
from common.examples import BY_USUAL_NAMES, Columns, read_examples
from common.files import check_output, staged_directory
from common.labels import Task
from common.progress import say, working
from common.tokenization import model_max_length
from distill.models import (
    input_names,
    load_classifier,
    load_config,
    load_tokenizer,
    make_encoder,
    save_tokenizer,
    set_task,
)
from distill.record import read_record
from distill.sources import Source, find_model
from export.bundle import MODEL_FILE, WEIGHTS_FILE, Manifest
from export.card import write_card
from export.onnx_graph import OPSET, export_graph
from export.verification import verify

PRECISIONS = ("fp32",)


def export(
    model_dir: Path,
    output: Path,
    *,
    checked_on: str,
    precision: str = "fp32",
    with_weights: bool = False,
    columns: Columns = BY_USUAL_NAMES,
    overwrite: bool = False,
    seed: int = 0,
) -> Manifest:
    """Writes a verified bundle.

    Args:
        model_dir: a classifier's directory.
        checked_on: a table of at least 64 real texts.
        with_weights: puts the weights in too, so that the torch engine can serve the bundle.

    Raises:
        InputError: the directory is no classifier, or the table will not do.
        WorkFailedError: the graph cannot be made, or does not answer as the model does.
    """
    if precision not in PRECISIONS:
        raise InputError(f"precision must be one of {', '.join(PRECISIONS)}, not '{precision}'")
    check_output(output, directory=True, overwrite=overwrite)
    source = find_model(str(model_dir))
    config = load_config(source)
    task = Task.from_config(config.to_dict())
    set_task(config, task)
    examples = read_examples(checked_on, columns, split="validation", need_label=False)
    tokenizer = load_tokenizer(source)
    encoder = make_encoder(tokenizer, config, _length_limit(tokenizer, config))
    model = load_classifier(source, config).eval()
    names = input_names(model)
    say(f"Exporting {source.name} ({config.num_hidden_layers} layers) to ONNX, opset {OPSET}")
    with staged_directory(output, overwrite=overwrite) as staging:
        with working("tracing the model"):
            export_graph(model, names, staging / MODEL_FILE)
        config.architectures = [type(model).__name__]
        if with_weights:
            model.save_pretrained(staging)
            # safetensors lets only its owner read the file; whoever serves the bundle may be another user.
            (staging / WEIGHTS_FILE).chmod((staging / MODEL_FILE).stat().st_mode)
        config.save_pretrained(staging)
        weights = staging if with_weights else None
        verification = verify(model, staging / MODEL_FILE, names, encoder, examples, task, seed, weights)
        save_tokenizer(tokenizer, staging, encoder.max_length)
        manifest = Manifest(
            name=output.resolve().name,
            layers=config.num_hidden_layers,
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            inputs=list(names),
            max_length=encoder.max_length,
            precision=precision,
            opset=OPSET,
            made_from=_made_from(source),
            measured=_measured(source),
            verification=verification,
            versions={
                "python": platform.python_version(),
                **{name: version(name) for name in ("understudy", "torch", "transformers", "onnx")},
                "onnxruntime": onnxruntime.__version__,
            },
        )
        write_card(manifest, task, staging)
        manifest.write(staging)
        size = sum(path.stat().st_size for path in staging.iterdir())
    say(
        f"Verified on {verification.texts} texts in {verification.shapes} shapes: logits within "
        f"{verification.max_difference:.1e}, same labels. {size / 1e6:.1f} MB written to {output}"
    )
    return manifest


def _length_limit(tokenizer: Any, config: Any) -> int:
    return model_max_length({"model_max_length": tokenizer.model_max_length}, config.to_dict())


def _made_from(source: Source) -> dict[str, Any]:
    record = read_record(source.path) or {}
    return {
        "model": source.describe(),
        **{key: record.get(key) for key in ("teacher", "base_model", "method", "layers", "settings", "data")},
    }


def _measured(source: Source) -> dict[str, Any]:
    """The dev metrics that training left; empty for a model that Understudy did not train."""
    record = read_record(source.path)
    if record is None:
        return {}
    metric = record["metric"]
    teacher = record["teacher"]
    return {
        "metric": metric,
        "split": record["data"]["dev"]["name"],
        "value": record["best_dev"][metric],
        "teacher_value": teacher["dev"][metric] if teacher else None,
    }
