"""What a measurement ran on. No name or address of the machine."""

from __future__ import annotations

import datetime
import hashlib
import mmap
import os
import pathlib
import platform
import ssl
from typing import Any

from nova_trusted_clone.core.integrity import leaf

CPU_INFO = pathlib.Path("/proc/cpuinfo")
MEMORY_INFO = pathlib.Path("/proc/meminfo")


def facts() -> dict[str, Any]:
    """Cores, processor, memory, versions, what hashes leaves, how busy the machine is, the date."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cores": len(os.sched_getaffinity(0)),
        "cpu": _field(CPU_INFO, "model name"),
        "memory_mib": int(_field(MEMORY_INFO, "MemTotal").split()[0]) >> 10,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "openssl": ssl.OPENSSL_VERSION,
        "sha256": hashlib.sha256.__name__,
        "leaf_implementation": leaf.implementation(),
        "load_1min_before": round(os.getloadavg()[0], 2),
    }


def touch_memory() -> int:
    """Touch most of the memory that is free, once, and give it back; return how many bytes.

    A virtual machine's own host gives it memory page by page when it is first touched, which takes
    seconds a GiB: whatever is measured first would pay for that.
    """
    size = int(_field(MEMORY_INFO, "MemAvailable").split()[0]) * 1024 * 4 // 5
    with mmap.mmap(-1, size) as memory:
        for offset in range(0, size, mmap.PAGESIZE):
            memory[offset] = 1
    return size


def _field(path: pathlib.Path, name: str) -> str:
    for line in path.read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return "0 unknown"


def summary(found: dict[str, Any]) -> str:
    """One line below a plot."""
    cpu, cores, leaves = found["cpu"], found["cores"], found["leaf_implementation"]
    return f"{cpu}, {cores} cores, leaves by {leaves}, {found['date'][:10]}"
