"""An experiment for a folder of yours and this machine, written as a file that you can change.

    madad-jax plan --in=data/ours --out=ours.py
    madad-jax run --config=ours.py --workdir=runs/ours

--in is a folder of slices ({train,val,test}/{id}-slice_{k}-{modality|brainmask|segmentation}.png)
or of scans; for scans the file begins with the command that prepares them. Sizes, contrasts and
brightness are read from headers and a sample. Networks, image size, batch and steps follow from
them, and from cores, memory and accelerators. Every line says why.

The expected minutes are measured here: each program of the run is compiled and run a few times.
That takes some minutes on two cores, and shortens the start of the run. --nomeasure leaves it out.
Steps are cut, to a third at most, where small networks would take longer than --minutes.

Exit status: 0 done; 2 bad input, one line.
"""

import os
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from absl import flags

from madad_jax.core import atomic_files, command_line, errors, shipped_configs

_LEAST_SHARE = 1 / 3  # of the recipe's steps; below it the networks have learned next to nothing
_GROUP_LIMIT = "/sys/fs/cgroup/memory.max"  # of a container


def make_flags() -> flags.FlagValues:
    """The options."""
    values = flags.FlagValues()
    for name, default, meaning in (
        ("in", "", "Folder of slices or of scans."),
        ("out", "plan.py", "File to write; one that exists is never written over."),
        ("modality", "", "Contrast, where there are several."),
    ):
        flags.DEFINE_string(name, default, meaning, flag_values=values)
    text = "That a run of small networks may take."
    flags.DEFINE_float("minutes", 60.0, text, 1.0, flag_values=values)
    flags.DEFINE_bool("measure", True, "Compile and time every program.", flag_values=values)
    flags.DEFINE_bool("help", False, "Show this.", short_name="h", flag_values=values)
    flags.DEFINE_bool("traceback", False, "Show tracebacks of user errors.", flag_values=values)
    return values


def run(argv: Sequence[str]) -> int:
    """Does what the command line says; returns the exit status.

    Raises:
      UserError: whatever the user can mend.
    """
    options = make_flags()
    if not command_line.parsed(options, argv, __doc__, ("in", "out")):
        return 0
    folder, out = options["in"].value, options.out
    if os.path.exists(out):
        raise errors.UserError(f"--out={out}: exists, and may have changes of yours; accepted: new")
    if not out.endswith(".py"):
        raise errors.UserError(f"--out={out}: must end in .py")
    # Here and not above: `--help` and mistyped flags answer without starting JAX.
    from etils import epath

    from madad_jax.data import folder_facts

    # Before JAX starts: what is wrong with a folder is said at once.
    facts = folder_facts.look(folder, options.modality)
    from madad_jax.experiment import plan_choices, plan_file
    from madad_jax.runtime import startup

    startup.start()
    machine = find_machine()
    plan = plan_choices.choose(facts, machine)
    minutes = "Expected minutes: not measured (--nomeasure)."
    if options.measure:
        plan, minutes = measure(plan, machine, options.minutes)
    content = plan_file.text(plan, machine, minutes, out)
    atomic_files.write_text(epath.Path(out), content)
    for line in (plan_file.plan_why(plan), *plan.remarks, minutes):
        print(line)
    if plan.prepare:
        print(f"first: {plan.prepare}")
    print(f"{out}: madad-jax run --config={out} --workdir=runs/{plan_file.name(plan)}")
    return 0


def find_machine() -> Any:
    """This machine, as a `plan_choices.Machine`."""
    import jax

    from madad_jax.experiment import plan_choices

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if os.path.isfile(_GROUP_LIMIT):
        with open(_GROUP_LIMIT, encoding="ascii") as file:
            limit = file.read().strip()
        memory = min(memory, int(limit)) if limit.isdigit() else memory
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    devices = [d for d in jax.local_devices() if d.platform != "cpu"]
    if not devices:
        return plan_choices.Machine(cores or 1, memory / 2**30)
    room = (devices[0].memory_stats() or {}).get("bytes_limit", 0)
    return plan_choices.Machine(
        cores or 1, memory / 2**30, len(devices), devices[0].device_kind, room / 2**30
    )


def measure(plan: Any, machine: Any, most_minutes: float) -> tuple[Any, str]:
    """(the plan, with fewer steps where it would take too long; the expected time in words).

    Args:
      plan: a `plan_choices.Plan`.
      machine: a `plan_choices.Machine`.
      most_minutes: that a run of small networks may take.

    Raises:
      UserError: a program cannot be built, or does not fit the memory.
    """
    from madad_jax.experiment import plan_choices, plan_file, step_times

    parts = assemble(plan_file.text(plan, machine, "", "plan.py"))
    times = step_times.measure(parts)
    training, other, words = plan_file.seconds(plan, parts, times)
    room = 60 * most_minutes - other
    if plan.recipe == plan_choices.SMALL and training > room:
        share = max(_LEAST_SHARE, room / training)
        plan = plan.with_steps(
            share, f"{100 * share:.0f} % of that, for --minutes={most_minutes:g}"
        )
        parts = assemble(plan_file.text(plan, machine, "", "plan.py"))
        training, other, words = plan_file.seconds(plan, parts, times)
    return plan, (
        f"Expected: {(training + other) / 60:.0f} minutes, measured here as {words}. Reading "
        "slices, validation, thresholds and pictures come on top."
    )


def assemble(text: str) -> Any:
    """The `assembly.parts.Parts` of an experiment's text, as its file would give them."""
    from madad_jax.assembly import parts

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "plan.py")
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        config = shipped_configs.load(path)
    return parts.assemble(config)


def main() -> None:
    """Entry point of `madad-jax plan`."""
    command_line.show_log()
    sys.exit(command_line.status("madad_jax plan", run, sys.argv))


if __name__ == "__main__":
    main()
