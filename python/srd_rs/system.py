"""What the operating system grants to this process."""

from __future__ import annotations

import os


def cpus() -> int:
    """Number of CPUs that this process may use; in a container the machine can have more."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else (os.cpu_count() or 1)
