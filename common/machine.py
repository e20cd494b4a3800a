"""What of this machine the process may use."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """Cores that the process may run on: an affinity mask or a container's cpuset counts, the machine's total not."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
