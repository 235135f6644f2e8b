"""XLA flags with which the programs of tests compile in a third of the time."""

import mmap
import os
import pathlib
import re

import jaxlib

DEVICES = "--xla_force_host_platform_device_count"
# One MLIR pipeline for each fusion, and a split of every module for more threads than there are,
# were two thirds of the cost of compiling a small program. The older emitters compute the same.
_QUICK = ("xla_cpu_use_fusion_emitters=false", "xla_cpu_parallel_codegen_split_count=1")


def quick() -> str:
    """Those flags that the installed XLA knows: one that it does not know ends the process."""
    known = []
    for path in pathlib.Path(jaxlib.__file__).parent.glob("*.so"):
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            names = (flag.partition("=")[0].encode() + b"\0" for flag in _QUICK)
            known += [f for f, name in zip(_QUICK, names, strict=True) if text.find(name) >= 0]
    return " ".join(f"--{flag}" for flag in _QUICK if flag in known)


def for_process(devices: int = 1) -> str:
    """XLA_FLAGS of a process that a test starts: ours, with other devices."""
    ours = re.sub(rf"{DEVICES}=\d+", "", os.environ.get("XLA_FLAGS", ""))
    return " ".join([*ours.split(), f"{DEVICES}={devices}"])
