"""First steps: a scan through the model that comes with the package, then a training from nothing.

    madad-jax demo
    madad-jax demo --out=runs/demo --example_only

1. The default model scores the example scan, a healthy head with a lesion painted in. Maps and page
   lie in OUT/example, and a sentence holds what was found against what was painted.
2. A detector is trained and evaluated on the embedded, synthetic cohort in OUT, as by
   `python -m madad_jax.main --config=configs/demo.py --workdir=OUT`: minutes on two CPU cores.

The same command again scores the scan again and continues the training. Exit status: 0 done; 2 bad
input, one line; else that of the training.
"""

import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from absl import flags

from madad_jax.core import command_line, folder_lock, shipped_configs
from madad_jax.predict import model_names
from madad_jax.runtime import huge_pages

CONFIG = shipped_configs.folder() / "demo.py"


def make_flags() -> flags.FlagValues:
    """The options."""
    values = flags.FlagValues()
    flags.DEFINE_string("out", "runs/demo", "Folder to write.", flag_values=values)
    flags.DEFINE_bool("example_only", False, "Leave the training out.", flag_values=values)
    flags.DEFINE_bool("help", False, "Show this.", short_name="h", flag_values=values)
    flags.DEFINE_bool("traceback", False, "Show tracebacks of user errors.", flag_values=values)
    return values


def load_detector() -> Any:
    """The default model as a `predict.detector.Detector`; None where it does not come with us.

    Raises:
      UserError: the model is damaged.
    """
    if model_names.DEFAULT not in model_names.shipped():
        return None
    # May start this program again, for larger pages of memory: nothing may have happened yet.
    huge_pages.restart()
    # Here and not above: `--help` and mistyped flags answer without starting JAX.
    from madad_jax.predict import api
    from madad_jax.runtime import startup

    startup.start()
    return api.load()


def score_example(detector: Any, folder: str) -> str:
    """Scores the example scan into a folder; a sentence on what is found and what was painted.

    Args:
      detector: a `predict.detector.Detector`.
      folder: for maps, summary and page.

    Raises:
      UserError: no brain mask can be made, another process writes the folder, or it cannot be
        written.
    """
    from madad_jax.predict import example
    from madad_jax.scans import volumes

    with folder_lock.hold(folder, "--out"):
        result = detector(example.path())
        result.save(folder)
    painted = volumes.read_labels(example.lesion_path(), result.volume) > 0
    found = example.compare(result.labels, result.candidates, painted, result.volume.voxel_ml)
    return f"The example scan: {found}."


def train(config: str, workdir: str) -> NoReturn:
    """Becomes the training: this process goes on as `madad_jax.main`. Does not return.

    A process of its own kind, so that the run is the one that the plain command makes, signals
    and exit status included.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    words = ["-m", "madad_jax.main", f"--config={config}", f"--workdir={workdir}"]
    os.execv(sys.executable, [sys.executable, *words])


def run(
    argv: Sequence[str],
    load: Callable[[], Any] = load_detector,
    then: Callable[[str, str], int] = train,
    config: str | os.PathLike = CONFIG,
) -> int:
    """Does what the command line says; returns the exit status.

    Args:
      argv: the command line, its program first.
      load: gives the detector, or None.
      then: trains, from (config, workdir); its status is the command's.
      config: of the training.

    Raises:
      UserError: whatever the user can mend.
    """
    options = make_flags()
    if not command_line.parsed(options, argv, __doc__, ("out",)):
        return 0
    start = time.monotonic()
    detector = load()
    if detector is None:
        print(f"No model {model_names.DEFAULT} comes with this version: no example is scored.")
    else:
        folder = os.path.join(options.out, "example")
        print(score_example(detector, folder))
        page = os.path.join(folder, "report.html")
        print(f"{page}: its page, after {time.monotonic() - start:.0f} s")
        print("Research software: not a medical device.")
    if options.example_only:
        return 0
    if not os.path.isfile(config):
        print(f"{config}: no such file; this installation has no experiments to train")
        return 0
    return then(os.fspath(config), options.out)


def main() -> None:
    """Entry point of `madad-jax demo`."""
    command_line.show_log()
    sys.exit(command_line.status("madad_jax demo", run, sys.argv))


if __name__ == "__main__":
    main()
