"""The bundle's model card, written from the manifest's own numbers."""

from __future__ import annotations

from pathlib import Path

from common.labels import Task
from export.bundle import Manifest


def write_card(manifest: Manifest, task: Task, directory: Path) -> None:
    """Writes README.md with the front matter that model hubs read."""
    (directory / "README.md").write_text(_card(manifest, task), encoding="utf-8")


def _card(manifest: Manifest, task: Task) -> str:
    proof = manifest.verification
    made = manifest.made_from
    lines = [
        "---",
        "library_name: onnx",
        "pipeline_tag: text-classification",
        "tags: [understudy, onnx, text-classification]",
        "---",
        "",
        f"# {manifest.name}",
        "",
        f"A text classifier of {manifest.layers} layers and {manifest.parameters:,} parameters as an ONNX model "
        f"({manifest.precision}, opset {manifest.opset}), made by Understudy.",
        "",
        "| | |",
        "|---|---|",
        f"| task | {task.problem_type.replace('_', ' ')} |",
        f"| labels | {len(task.labels)}: {_cell(', '.join(task.labels))} |",
        f"| longest text | {manifest.max_length} tokens; what is longer is truncated, and reported |",
        f"| made from | {_named(made.get('model'))} |",
    ]
    if made.get("teacher"):
        lines.append(f"| teacher | {_named(made['teacher'])}, {made['teacher']['layers']} layers |")
    if made.get("base_model"):
        lines.append(f"| base model | {_named(made['base_model'])} |")
    if made.get("method"):
        lines.append(f"| method | {made['method']} |")
    if made.get("data"):
        train = made["data"]["train"]
        lines.append(f"| training data | {train['name']}, {train['rows']:,} rows (sha256 {train['sha256'][:12]}…) |")
    if manifest.measured:
        measured = manifest.measured
        lines.append(f"| {measured['metric']} on {measured['split']} | {measured['value']:.4f} |")
        if measured.get("teacher_value") is not None:
            lines.append(f"| the teacher's | {measured['teacher_value']:.4f} |")
    lines += [
        "",
        "## Verification",
        "",
        f"The ONNX model was compared with the PyTorch model on {proof.texts} texts of {proof.data['name']} in "
        f"{proof.shapes} shapes of batch and length: the logits differ by at most {proof.max_difference:.2e} and every "
        f"label is the same. A text's scores alone and in a batch differ by at most {proof.batch_shift:.2e}.",
        "",
        *(["The epoch of the metric above was picked by that same metric.", ""] if manifest.measured else []),
        "## Use",
        "",
        "```",
        f"understudy serve {manifest.name}",
        f"understudy score {manifest.name} texts.csv -o scored.csv",
        "```",
        "",
    ]
    return "\n".join(lines)


def _cell(text: str) -> str:
    """Text that breaks no table."""
    return " ".join(text.split()).replace("|", "\\|")


def _named(source: dict[str, str] | None) -> str:
    return f"{source['name']} (sha256 {source['sha256'][:12]}…)" if source else "unknown"
