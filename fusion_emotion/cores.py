"""The cores that this process may use, which can be fewer than the machine has."""

import os
import pathlib


def cores(
    *, cgroups: pathlib.Path = pathlib.Path("/sys/fs/cgroup"), own: pathlib.Path = pathlib.Path("/proc/self/cgroup")
) -> int:
    """Return the number of cores of the affinity mask, or of the CPU quota of a cgroup (v1 or v2) if that is lower.

    `cgroups` is the mount point of the cgroups, and `own` the list of this process's. A quota is rounded up.
    """
    # macOS has no affinity.
    n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return n_cores
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = cgroups / "cpu" if controllers else cgroups
        # The quota of each ancestor holds as well. A container may see its own group as the root.
        group = pathlib.PurePosixPath(path.lstrip("/"))
        for folder in (root / group, *(root / parent for parent in group.parents)):
            quota_us, period_us = _quota(folder)
            if quota_us > 0:
                n_cores = min(n_cores, -(-quota_us // period_us))
    return max(1, n_cores)


def _quota(folder: pathlib.Path) -> tuple[int, int]:
    """Return the CPU time of a cgroup in a period, and the period, in microseconds; -1 without a quota."""
    try:
        if (folder / "cpu.max").exists():
            quota_us, period_us = (folder / "cpu.max").read_text().split()
        else:
            quota_us, period_us = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return (-1, 1) if quota_us == "max" else (int(quota_us), int(period_us))
    except (OSError, ValueError):
        return -1, 1
