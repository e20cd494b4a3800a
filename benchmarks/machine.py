"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

from common.machine import cpu_model, usable_cores


def describe_machine() -> dict[str, Any]:
    """Processor, system, versions, and how busy the machine was (runnable tasks, mean of the last minute).

    `cores` are those that this process may use.
    """
    return {
        "cpu": cpu_model(),
        "cores": usable_cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "load_before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "understudy": version("understudy"),
        "python": platform.python_version(),
        "onnxruntime": version("onnxruntime"),
        "tokenizers": version("tokenizers"),
        "torch": version("torch") if find_spec("torch") else None,
    }
