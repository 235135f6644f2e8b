"""Memory in pages of 2 MB; the C library is asked for them before a process starts.

XLA's CPU code takes the temporaries of a program anew in every step, more than a gigabyte of a
training step, and each page of 4 KB that is touched for the first time is a trap. On two virtual
cores that was a sixth of a step (benchmarks/README.md). Linux gives pages of 2 MB to a process
that asks for them ("madvise", the usual setting). glibc asks when its tunable says so, from 2.35.
"""

import os
import pathlib
import platform
import sys

VARIABLE = "GLIBC_TUNABLES"
TUNABLE = "glibc.malloc.hugetlb=1"
_OURS = ("madad_jax", "benchmarks")  # packages whose commands are started again
MODE = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")


def wanted(mode: pathlib.Path = MODE) -> bool:
    """Whether a restart would change anything: glibc 2.35 or newer, a kernel that gives huge pages
    only to processes that ask (`mode` is its file), and no tunables of the user's own."""
    if VARIABLE in os.environ:
        return False
    name, version = platform.libc_ver()
    numbers = version.split(".")[:2]
    if name != "glibc" or not all(n.isdigit() for n in numbers):
        return False
    try:
        return tuple(map(int, numbers)) >= (2, 35) and "[madvise]" in mode.read_text()
    except OSError:
        return False


def restart(mode: pathlib.Path = MODE) -> None:
    """Starts this very command again with huge pages, in the same process; returns where that
    would change nothing, and where a program of somebody else's called. To be called before
    anything is loaded or written."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is not None and spec.name.split(".")[0] in _OURS and wanted(mode):
        os.environ[VARIABLE] = TUNABLE
        os.execv(sys.executable, sys.orig_argv)
