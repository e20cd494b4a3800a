"""What of this machine the process may use."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path


def usable_cores() -> int:
    """Cores that the process may run on: an affinity mask or a container's cpuset counts, the machine's total not."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def integer_products_saturate() -> bool:
    """Whether sums of two 8-bit products may overflow 16 bits here, so that int8 weights must keep to 7 bits.

    So it is on x86 processors without VNNI; where the system does not tell, they are taken to be without.
    """
    if platform.machine().lower() not in ("x86_64", "amd64", "i386", "i686"):
        return False
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    flags = next((line for line in lines if line.startswith("flags")), "")
    return not {"avx512_vnni", "avx_vnni"} & set(flags.split())


def cpu_model() -> str:
    """The processor's name; its architecture where the system gives no name."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    if platform.system() == "Darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return platform.processor() or platform.machine()
