"""`inspect`: a bundle verified and its manifest shown."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from common.files import read_json
from common.progress import console, say
from export.bundle import MANIFEST_FILE, Bundle


def inspect(path: Path, *, as_json: bool = False) -> None:
    """Prints what a bundle was made from and what was measured; every hash is verified first.

    Raises:
        InputError: the directory is no bundle or a file was changed.
    """
    bundle = Bundle.load(path)
    if as_json:
        console.print_json(data=read_json(path / MANIFEST_FILE))
        return
    manifest, task = bundle.manifest, bundle.task
    table = Table(show_header=False, box=None, pad_edge=False)
    shown = {
        "name": manifest.name,
        "layers": str(manifest.layers),
        "parameters": f"{manifest.parameters:,}",
        "precision": f"{manifest.precision}, opset {manifest.opset}",
        "size": f"{bundle.size_bytes / 1e6:.1f} MB in {len(manifest.files)} files",
        "task": f"{task.problem_type.replace('_', ' ')}, {len(task.labels)} labels",
        "longest text": f"{manifest.max_length} tokens",
    }
    for key in ("model", "teacher", "base_model"):
        source = manifest.made_from.get(key)
        if source:
            shown[{"model": "made from", "base_model": "base model"}.get(key, key)] = (
                f"{source['name']}, sha256 {source['sha256'][:16]}…"
            )
    if manifest.made_from.get("method"):
        shown["method"] = manifest.made_from["method"]
    if manifest.measured:
        measured = manifest.measured
        teacher = measured.get("teacher_value")
        shown[f"{measured['metric']} on {measured['split']}"] = f"{measured['value']:.4f}" + (
            f" (teacher {teacher:.4f})" if teacher is not None else ""
        )
    proof = manifest.verification
    shown["verified"] = (
        f"{proof.texts} texts, {proof.shapes} shapes: logits within {proof.max_difference:.1e}, "
        f"scores alone and in a batch within {proof.batch_shift:.1e}"
    )
    for name, value in shown.items():
        table.add_row(name, value)
    console.print(table)
    say(f"All {len(manifest.files)} files match their hashes.")
