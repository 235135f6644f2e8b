"""What a figure must carry with it: machine, versions, command, load, and peak memory."""

import os
import pathlib
import platform
import re
import shlex
import sys
import time
from typing import Any

import jax

from madad_jax.runtime import startup


def facts() -> dict[str, Any]:
    """Where and when: to be stored with every row."""
    device = jax.devices()[0]
    return {
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0,
        "device": device.device_kind,
        "versions": startup.device_line(),
        "command": "python -m benchmarks.speed " + shlex.join(sys.argv[1:]),
        "load_average": round(os.getloadavg()[0], 2),
        "time": time.strftime("%Y-%m-%d %H:%M"),
    }


def cpu_model() -> str:
    """The processor as it names itself."""
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:  # no Linux
        return platform.processor() or platform.machine()
    found = re.search(r"model name\s*:\s*(.+)", text)
    return found.group(1).strip() if found else platform.machine()


def has_avx512() -> bool:
    """Whether the processor has AVX-512; False where that is not known."""
    try:
        return " avx512f " in pathlib.Path("/proc/cpuinfo").read_text().replace("\n", " ")
    except OSError:
        return False


def peak_bytes(pid: int | str = "self") -> int:
    """Largest resident memory so far of a process (VmHWM); 0 where that is not known."""
    try:
        text = pathlib.Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"VmHWM:\s+(\d+) kB", text)
    return int(found.group(1)) * 1024 if found else 0


def device_peak_bytes() -> int:
    """Largest memory in use so far on the first accelerator; 0 on a CPU."""
    stats = jax.devices()[0].memory_stats() or {}
    return int(stats.get("peak_bytes_in_use", 0))
