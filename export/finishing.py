"""The last steps of every bundle: its plot, card and manifest, and what the command says of it."""

from __future__ import annotations

from pathlib import Path

from common.labels import REGRESSION, Task
from common.progress import say
from export.bundle import Manifest
from export.card import write_card
from export.reliability import RELIABILITY_FILE, draw_reliability
from export.settings import FP32


def finish_bundle(manifest: Manifest, task: Task, staging: Path) -> None:
    """Writes the card, its plot and the manifest into a bundle whose other files are there."""
    if manifest.calibration is not None:
        draw_reliability(manifest.calibration, staging / RELIABILITY_FILE)
    write_card(manifest, task, staging)
    manifest.write(staging)


def say_result(manifest: Manifest, task: Task, output: Path) -> None:
    """What was proved, in a few lines."""
    checked = manifest.verification
    agree = "scores alone and in a batch" if checked.max_difference is None else "logits"
    by = checked.batch_shift if checked.max_difference is None else checked.max_difference
    same = "" if task.problem_type == REGRESSION else ", same labels"
    say(f"Verified on {checked.texts} texts in {checked.shapes} shapes: {agree} within {by:.1e}{same}.")
    proof, calibration = manifest.precision_proof, manifest.calibration
    if proof is not None and proof.precision == FP32:
        say("No lower precision is faster and passes: float32 it is.")
    elif proof is not None:
        say(
            f"{manifest.precision}: {proof.metric} {proof.value:.4f} on {proof.data['name']} (float32 "
            f"{proof.fp32_value:.4f}), the graph {100 * proof.bytes / proof.fp32_bytes:.0f} % of float32's; "
            f"scores alone and in a batch within {proof.batch_shift:.1e}."
        )
        if proof.weight_bits:
            say(f"Weights of {proof.weight_bits} bits: {proof.weight_bits_reason}.")
        if proof.kept:
            say(f"Kept in float32: {', '.join(proof.kept)}.")
    for device in manifest.not_run:
        say(f"Not run on {device}: the checks ran on {checked.device}.")
    if calibration is not None and calibration.temperature == 1:
        say(f"Calibration error {100 * calibration.ece_before:.1f} %; no temperature makes it less on unseen rows.")
    elif calibration is not None:
        say(
            f"Temperature {calibration.temperature:.2f}: calibration error {100 * calibration.ece_before:.1f} % "
            f"before, {100 * calibration.ece_after:.1f} % after."
        )
    if calibration is not None and calibration.thresholds:
        say(
            f"A threshold of its own for {calibration.own_thresholds}: micro-F1 {calibration.f1_before:.4f} at one "
            f"half, {calibration.f1_after:.4f} at them on rows that the fit did not see."
        )
    size = sum(file.stat().st_size for file in output.iterdir())
    say(f"{size / 1e6:.1f} MB written to {output}")
