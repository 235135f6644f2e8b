"""Speed beside what people would use instead, in <workdir>/benchmark.

    python -m benchmarks.speed --config=configs/brats.py:T1 --workdir=runs/speed --suite=train

Takes the flags of `python -m madad_jax.main`, and `--suite`.
"""

import logging
import sys

from absl import flags

from madad_jax import main as command

_SUITE = flags.DEFINE_list(
    "suite",
    [],
    "train, sample, encode, evaluate, prepare, input, start, growth, profile. Empty: all.",
)


def _config_flags(argv: list[str]) -> list[str]:
    """`--config...` of a command line, with the values that follow as words of their own."""
    found = []
    for i, word in enumerate(argv):
        if word.lstrip("-").startswith("config") and word.startswith("-"):
            found += [word] if "=" in word else argv[i : i + 2]
    return found


def _run(argv: list[str]) -> int:
    # Compile times are measured, not looked up.
    config, workdir, _ = command.start(argv, cache_dir="")
    from benchmarks.speed import run
    from madad_jax.runtime import process_log, startup

    process_log.attach(workdir, 0)
    logging.getLogger("madad_jax").info("%s", startup.device_line())
    run.execute(config, workdir, _SUITE.value, _config_flags(sys.argv[1:]))
    return 0


if __name__ == "__main__":
    command.main(_run)
