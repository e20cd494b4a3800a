"""The bundle's model card, written from the manifest's own numbers."""

from __future__ import annotations

from pathlib import Path

from common.labels import REGRESSION, Task
from export.bundle import Manifest
from export.proofs import Attempt, Calibration
from export.reliability import RELIABILITY_FILE


def write_card(manifest: Manifest, task: Task, directory: Path) -> None:
    """Writes README.md with the front matter that model hubs read."""
    (directory / "README.md").write_text(_card(manifest, task), encoding="utf-8")


def _card(manifest: Manifest, task: Task) -> str:
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
    if made.get("exported_by"):
        lines.append(f"| exported by | {_cell(made['exported_by'])} |")
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
        other = measured.get("precision", manifest.precision) != manifest.precision
        where = f"{measured['split']}{', in float32' if other else ''}"
        where += ", whose rows the thresholds were fitted on" if manifest.flattering else ""
        lines.append(f"| {measured['metric']} on {where} | {measured['value']:.4f} |")
        if measured.get("teacher_value") is not None:
            lines.append(f"| the teacher's | {measured['teacher_value']:.4f} |")
    lines += [
        "",
        "## Verification",
        "",
        _verified(manifest, task),
        "",
        *(["The epoch of the metric above was picked by that same metric.", ""] if _picked_by_it(manifest) else []),
        *(f"Not run on {device}: the checks ran on {manifest.verification.device}.\n" for device in manifest.not_run),
        *_precision(manifest, task),
        *_calibration(manifest),
        "## Contents",
        "",
        "| tensors | bytes |",
        "|---|---:|",
        *(f"| {group} | {size:,} |" for group, size in manifest.contents.get("tensors", {}).items()),
        "",
        "## Use",
        "",
        "```",
        f"understudy serve {manifest.name}",
        f"understudy score {manifest.name} texts.csv -o scored.csv",
        "```",
        "",
    ]
    return "\n".join(lines)


def _picked_by_it(manifest: Manifest) -> bool:
    made = manifest.made_from
    return bool(made.get("method")) and manifest.measured.get("split") == made["data"]["dev"]["name"]


def _verified(manifest: Manifest, task: Task) -> str:
    proof = manifest.verification
    where = f"on {proof.texts} texts of {proof.data['name']} in {proof.shapes} shapes of batch and length"
    alone = f"A text's scores alone and in a batch differ by at most {proof.batch_shift:.2e}."
    lowered = manifest.precision_proof is not None and manifest.precision_proof.precision != "fp32"
    which = "The float32 graph" if lowered else "The ONNX model"
    if proof.max_difference is None:
        return f"{which} came without the PyTorch model, so it was compared with itself {where}. {alone}"
    numbers = task.problem_type == REGRESSION
    # Where a number is larger than 1.
    same = " (of numbers above 1, in proportion)" if numbers else " and every label is the same"
    text = (
        f"{which} was compared with the PyTorch model {where}, on {proof.device}: the logits differ by at most "
        f"{proof.max_difference:.2e}{same}. {alone}"
    )
    if proof.weights_difference is not None:
        text += f" The weights in the bundle give logits within {proof.weights_difference:.2e}"
        text += "." if numbers else ", and the same labels."
    return text


def _precision(manifest: Manifest, task: Task) -> list[str]:
    """What the lower precision costs, and everything that was tried."""
    proof = manifest.precision_proof
    if proof is None:
        return []
    lines, numbers = ["## Precision", ""], task.problem_type == REGRESSION
    if proof.precision != "fp32":
        lines += [
            "| | float32 | " + proof.precision + " |",
            "|---|---:|---:|",
            f"| {proof.metric} on {proof.data['name']} ({proof.data['rows']:,} rows) | {proof.fp32_value:.4f} | "
            f"{proof.value:.4f} |",
            f"| bytes of the graph | {proof.fp32_bytes:,} | {proof.bytes:,} |",
            *([] if numbers else [f"| same label as float32 | | {100 * proof.agreement:.2f} % |"]),
            f"| scores differ from float32's by at most | | {proof.max_score_difference:.4f} |",
            f"| scores alone and in the batches tried differ by at most | | {proof.batch_shift:.1e} |",
            *([] if numbers else [f"| labels that differ alone and in those batches | | {proof.flips} |"]),
            "",
        ]
        if proof.weight_bits:
            lines += [f"Weights have {proof.weight_bits} bits: {proof.weight_bits_reason}.", ""]
        if proof.calibrated_on:
            rows = proof.calibrated_on
            lines += [f"Ranges come from {rows['rows']:,} training rows of {rows['name']}.", ""]
        if proof.kept:
            lines += [f"Kept in float32: {', '.join(f'`{name}`' for name in proof.kept)}.", ""]
    lines += [
        f"Tried, with at most {proof.max_loss:g} points to lose:",
        "",
        "| precision | layers in float32 | value | points lost | shift in a batch | flips | texts/s | passed |",
        "|---|---:|---:|---:|---:|---:|---:|---|",
        *(_attempt(attempt) for attempt in proof.tried),
        "",
    ]
    return lines


def _fitted(found: Calibration) -> str:
    data = found.data["name"]
    if found.temperature == 1 and not found.thresholds:
        return f"No temperature fitted on {data} helps on rows that the fit did not see: the logits stay as they are."
    fitted = [] if found.temperature == 1 else [f"logits are divided by {found.temperature:g}"]
    fitted += [f"{found.own_thresholds} have a threshold of their own"] if found.thresholds else []
    told = " and ".join(fitted)
    return (
        f"{told[0].upper()}{told[1:]}, fitted on {data}. The figures after it are of rows that the fit did not see "
        f"({found.folds} folds)."
    )


def _attempt(tried: Attempt) -> str:
    speed = "" if tried.texts_per_s is None else f"{tried.texts_per_s:,.0f}"
    passed = "yes" if tried.passed else "no"
    alone = " | |" if tried.batch_shift is None else f" {tried.batch_shift:.1e} | {tried.flips} |"
    return (
        f"| {tried.precision} | {len(tried.kept)} | {tried.value:.4f} | {tried.loss:+.2f} |{alone} {speed} | {passed} |"
    )


def _calibration(manifest: Manifest) -> list[str]:
    found = manifest.calibration
    if found is None:
        return []
    rows = [
        ("expected calibration error", found.ece_before, found.ece_after),
        ("Brier score", found.brier_before, found.brier_after),
        ("negative log-likelihood", found.nll_before, found.nll_after),
    ]
    if found.f1_before is not None and found.f1_after is not None:
        rows.append(("micro-F1", found.f1_before, found.f1_after))
    return [
        "## Calibration",
        "",
        _fitted(found),
        "",
        "| | before | after |",
        "|---|---:|---:|",
        *(f"| {name} | {before:.4f} | {after:.4f} |" for name, before, after in rows),
        "",
        f"![How often the model is right, against its score]({RELIABILITY_FILE})",
        "",
    ]


def _cell(text: str) -> str:
    """Text that breaks no table."""
    return " ".join(text.split()).replace("|", "\\|")


def _named(source: dict[str, str] | None) -> str:
    return f"{source['name']} (sha256 {source['sha256'][:12]}…)" if source else "unknown"
