"""The machine that GPU figures were measured on, and its two ceilings: `python -m benchmarks.gpu.machine`, JSON."""

from __future__ import annotations

import json
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.timing import time_call
from common.machine import cpu_model, usable_cores

_ROOT = Path(__file__).resolve().parents[2]
_COPY_BYTES = 4 << 30  # far beyond any cache
_MATRIX = 8192


def describe() -> dict[str, Any]:
    """Device, versions and commit; what cannot be found out is null.

    Returns:
        `device`: 'cpu', or the card's name, with `driver`, `memory_gib`, `multiprocessors`, `capability`, `l2_mib` and
        `clocks` (MHz and watts as nvidia-smi has them, before anything ran); then `cpu`, `cores`, `system`, versions
        of python, torch, cuda, cudnn and triton, `commit` and `modified` (tracked files differ from it).
    """
    return {
        **_card(),
        "cpu": cpu_model(),
        "cores": usable_cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if torch.cuda.is_available() else None,
        "triton": _triton(),
        **_commit(),
    }


def ceilings() -> dict[str, float] | None:
    """What the card reaches on random data: a large copy, read and written, and large matrix products.

    Returns:
        `copy_tb_s`, `float16_tflop_s` and `bfloat16_tflop_s`; None without a GPU.
    """
    if not torch.cuda.is_available():
        return None
    found = {"copy_tb_s": 2 * _COPY_BYTES / _copy_ms() / 1e9}
    for dtype in (torch.float16, torch.bfloat16):
        found[f"{str(dtype).removeprefix('torch.')}_tflop_s"] = 2 * _MATRIX**3 / _product_ms(dtype) / 1e9
    return {name: round(value, 2) for name, value in found.items()}


def _copy_ms() -> float:
    device = torch.device("cuda")
    source = torch.randn(_COPY_BYTES // 4, device=device)
    target = torch.empty_like(source)
    return time_call(lambda: target.copy_(source), device, replay=False).median_ms


def _product_ms(dtype: torch.dtype) -> float:
    device = torch.device("cuda")
    a, b = (torch.randn(_MATRIX, _MATRIX, dtype=dtype, device=device) for _ in range(2))
    return time_call(lambda: a @ b, device, replay=False).median_ms


def _card() -> dict[str, Any]:
    if not torch.cuda.is_available():
        return {"device": "cpu"}
    properties = torch.cuda.get_device_properties(0)
    fields = ("driver_version", "clocks.sm", "clocks.max.sm", "clocks.mem", "power.limit")
    answer = _output("nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader")
    values = [value.strip() for value in answer.splitlines()[0].split(",")] if answer else [None] * len(fields)
    return {
        "device": properties.name,
        "driver": values[0],
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "multiprocessors": properties.multi_processor_count,
        "capability": f"{properties.major}.{properties.minor}",
        "l2_mib": round(properties.L2_cache_size / 2**20),
        "clocks": dict(zip(fields[1:], values[1:], strict=True)),
    }


def _commit() -> dict[str, Any]:
    commit = _output("git", "-C", str(_ROOT), "rev-parse", "HEAD")
    changes = _output("git", "-C", str(_ROOT), "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit or None, "modified": bool(changes) if commit else None}


def _triton() -> str | None:
    try:
        import triton
    except ImportError:
        return None
    return str(triton.__version__)


def _output(*command: str) -> str:
    """What a command printed; empty where it is missing, failed or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def main() -> None:
    """Prints both as one JSON object."""
    print(json.dumps({**describe(), "ceilings": ceilings()}, indent=2))


if __name__ == "__main__":
    main()
