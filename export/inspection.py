"""`inspect`: a bundle verified and its manifest shown."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich.table import Table
from rich.text import Text

from common.files import read_json
from common.labels import REGRESSION, Task
from common.progress import console, say
from export.bundle import MANIFEST_FILE, Bundle, Manifest


def inspect(path: Path, *, as_json: bool = False) -> None:
    """Prints what a bundle was made from and what was measured; every hash is verified first.

    Raises:
        InputError: the directory is no bundle or a file was changed.
    """
    bundle = Bundle.load(path)
    if as_json:
        console.print_json(data=read_json(path / MANIFEST_FILE))
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in (*_origin(bundle), *_proofs(bundle.manifest, bundle.task), *_contents(bundle.manifest)):
        table.add_row(name, Text(value))
    console.print(table)
    say(f"All {len(bundle.manifest.files)} files match their hashes.")


def _origin(bundle: Bundle) -> Iterator[tuple[str, str]]:
    manifest, task = bundle.manifest, bundle.task
    yield "name", manifest.name
    yield "layers", str(manifest.layers)
    yield "parameters", f"{manifest.parameters:,}"
    yield "precision", f"{manifest.precision}, opset {manifest.opset}"
    yield "size", f"{bundle.size_bytes / 1e6:.1f} MB in {len(manifest.files)} files"
    yield "task", f"{task.problem_type.replace('_', ' ')}, {len(task.labels)} labels"
    yield "longest text", f"{manifest.max_length} tokens"
    for key, name in (("model", "made from"), ("teacher", "teacher"), ("base_model", "base model")):
        if source := manifest.made_from.get(key):
            yield name, f"{source['name']}, sha256 {source['sha256'][:16]}…"
    if manifest.made_from.get("exported_by"):
        yield "exported by", manifest.made_from["exported_by"]
    if manifest.made_from.get("method"):
        yield "method", manifest.made_from["method"]
    if measured := manifest.measured:
        teacher = measured.get("teacher_value")
        against = "" if teacher is None else f" (teacher {teacher:.4f})"
        fitted = ", the thresholds fitted on these rows" if manifest.flattering else ""
        other = ", fp32" if measured.get("precision", manifest.precision) != manifest.precision else ""
        yield f"{measured['metric']} on {measured['split']}{other}", f"{measured['value']:.4f}{against}{fitted}"


def _proofs(manifest: Manifest, task: Task) -> Iterator[tuple[str, str]]:
    checked = manifest.verification
    logits = "" if checked.max_difference is None else f"logits within {checked.max_difference:.1e}, "
    yield (
        "verified",
        f"{checked.texts} texts, {checked.shapes} shapes, on {checked.device}: {logits}"
        f"scores alone and in a batch within {checked.batch_shift:.1e}",
    )
    if checked.weights_difference is not None:
        yield "weights", f"in the bundle: logits within {checked.weights_difference:.1e}"
    proof = manifest.precision_proof
    if proof is not None and proof.precision != "fp32":
        same = f"{100 * proof.agreement:.1f} % same labels"
        if task.problem_type == REGRESSION:
            same = f"numbers within {proof.max_score_difference:.4f}"
        yield (
            f"{proof.precision} against fp32",
            f"{proof.metric} {proof.value:.4f} and {proof.fp32_value:.4f} on {proof.data['name']}, "
            f"{same}, {100 * proof.bytes / proof.fp32_bytes:.0f} % of the bytes, "
            f"scores alone and in a batch within {proof.batch_shift:.1e}",
        )
        if proof.weight_bits:
            yield "weight bits", f"{proof.weight_bits}: {proof.weight_bits_reason}"
        if proof.calibrated_on:
            yield "ranges", f"from {proof.calibrated_on['rows']:,} rows of {proof.calibrated_on['name']}"
    for device in manifest.not_run:
        yield f"on {device}", "not run"
    if found := manifest.calibration:
        limits = f", a threshold of its own for {found.own_thresholds}" if found.thresholds else ""
        f1 = f"; micro-F1 {found.f1_before:.4f} at one half, {found.f1_after:.4f} at them" if found.thresholds else ""
        yield (
            "calibration",
            f"temperature {found.temperature:g}{limits}: error {100 * found.ece_before:.1f} % before, "
            f"{100 * found.ece_after:.1f} % after; Brier {found.brier_before:.4f}, {found.brier_after:.4f}{f1}"
            if found.temperature != 1 or found.thresholds
            else f"no temperature helps: error {100 * found.ece_before:.1f} %, Brier {found.brier_before:.4f}",
        )


def _contents(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Nothing for bundles of the first format, which do not tell."""
    for group, size in manifest.contents.get("tensors", {}).items():
        yield f"tensors, {group}", f"{size / 1e3:,.0f} kB"
    if operators := manifest.contents.get("operators"):
        yield "operators", ", ".join(f"{count} {name}" for name, count in operators.items())
    layers = manifest.contents.get("layers", {})
    for precision in sorted(set(layers.values())):
        names = [name for name, its in layers.items() if its == precision]
        several = len(set(layers.values())) > 1
        yield f"layers in {precision}", f"all {len(names)}" if not several else ", ".join(names)
