"""The command line: flags, `--mode`, dispatch.

    python -m madad_jax.main --config=configs/demo.py --workdir=runs/demo

Modes: run (all stages), train_autoencoder, train, evaluate, report, compile, export (the
trained detector as files of its own, in <workdir>/export). The same command again continues a
stopped run. Exit status: 0 done; 2 bad input, one line; 143 and 130 stopped by SIGTERM and ctrl-C
after saving; 75 another process of the job is gone or hangs: start all of them again.
"""

import contextlib
import functools
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable
from typing import Any

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_dict, config_flags

from madad_jax.core import command_line, errors, shipped_configs
from madad_jax.runtime import huge_pages

MODES = ("run", "train_autoencoder", "train", "evaluate", "report", "compile", "export")
_READ = ("report", "compile", "export")  # These leave what a run goes on from as it is.

_LOG = logging.getLogger("madad_jax")

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Experiment, as configs/demo.py or configs/brats.py:FLAIR.", lock_config=True
)
_WORKDIR = flags.DEFINE_string("workdir", "", "Folder of the run; default runs/<config name>.")
_MODE = flags.DEFINE_enum("mode", "run", MODES, "Which part of the job to do.")
_DEVICES = flags.DEFINE_integer("devices", 0, "compile: so many fake CPU devices.")
_TOPOLOGY = flags.DEFINE_string(
    "topology", "", "compile: a machine to plan for, as v5e-256, h100-8 or 4xv5e-64."
)
_DISTRIBUTED = flags.DEFINE_bool("distributed", False, "Join other hosts (jax.distributed).")
_JOIN = flags.DEFINE_integer("join_timeout", 300, "Seconds to wait for the other processes.", 1)
_HEARTBEAT = flags.DEFINE_integer(
    "heartbeat_timeout", 100, "Seconds after which a silent process counts as gone.", 5
)
_HANG = flags.DEFINE_float(
    "hang_timeout", 1800.0, "Seconds without progress that end a job of several; 0: never.", 0.0
)
_TRACEBACK = flags.DEFINE_bool("traceback", False, "Show the traceback of user errors.")


def _config() -> Any:
    if _CONFIG.value is None:
        raise errors.UserError("--config is missing; for example --config=configs/demo.py")
    try:
        _CONFIG.value.lock()
    except OSError as error:  # config_flags says only here that a file could not be read
        raise errors.UserError(" ".join(str(error).split())) from error
    return _CONFIG.value


def _described_machine() -> Any:
    """The machine of `--topology`, and as many fake devices as it or `--devices` asks for."""
    if not _TOPOLOGY.value and not _DEVICES.value:
        return None
    if _MODE.value != "compile":
        raise errors.UserError("--devices and --topology belong to --mode=compile")
    # Here and not above: `--help` needs no numpy.
    from madad_jax.devices import machines

    machine = machines.parse(_TOPOLOGY.value) if _TOPOLOGY.value else None
    count = machine.devices if machine else _DEVICES.value
    if count < 1 or _DEVICES.value not in (0, count):
        raise errors.UserError(
            f"--devices: found {_DEVICES.value}, accepted: "
            + (f"{count} with --topology={machine.name}" if machine else "1 or more")
        )
    # Both are read when JAX starts, which is below.
    flag = f"--xla_force_host_platform_device_count={count}"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
    os.environ["JAX_PLATFORMS"] = "cpu"
    return machine


def start(argv: list[str], cache_dir: str | None = None) -> tuple[Any, str, Any]:
    """(config, workdir, described machine or None) of the parsed flags; JAX is started.

    Args:
      argv: what is left of the command line, its program first.
      cache_dir: as `runtime.startup.start` takes it.

    Raises:
      UserError: a word that is no flag, or a flag or config that cannot be.
    """
    if len(argv) > 1:
        raise errors.UserError(f"unexpected argument {argv[1]!r}; options start with --")
    config = _config()
    huge_pages.restart()
    machine = _described_machine()
    # Here and not above: `--help` and mistyped flags answer without starting JAX.
    from madad_jax.runtime import startup

    startup.start(
        distributed=_DISTRIBUTED.value,
        join_timeout=_JOIN.value,
        heartbeat_timeout=_HEARTBEAT.value,
        hang_timeout=_HANG.value,
        cache_dir=cache_dir,
    )
    from madad_jax.assembly import process_settings

    process_settings.set_precision(config)
    return config, _WORKDIR.value or process_settings.default_workdir(config), machine


def _run(argv: list[str]) -> int:
    config, workdir, machine = start(argv)
    from madad_jax.runtime import agreement, wall_time

    wall_time.count_from_process_start()
    # Before the log, which is the first file that a run writes.
    alone = _MODE.value not in _READ
    with agreement.lock(workdir, "--workdir") if alone else contextlib.nullcontext():
        return _work(config, workdir, machine)


def _work(config: config_dict.ConfigDict, workdir: str, machine: Any) -> int:
    import jax

    from madad_jax.assembly import cells, parts, tasks
    from madad_jax.experiment import compile_report, paper_table, report_stage, stages, task_chain
    from madad_jax.runtime import process_log, startup
    from madad_jax.runtime import stop as stop_lib

    if _MODE.value not in ("compile", "export"):
        process_log.attach(workdir, jax.process_index())
    _LOG.info("%s", startup.device_line())
    # A table is many runs, and so are tasks that are learned one after another.
    work: Any = paper_table if cells.is_table(config) else stages
    if tasks.are_asked(config) and _MODE.value != "compile":
        work = task_chain
    if work is stages and _MODE.value == "compile":
        made = parts.assemble(config, plain_convolutions=machine is not None)
        compile_report.report(made, machine)
        return 0
    if work is stages and _MODE.value == "export":
        from etils import epath

        from madad_jax.predict import api

        # A path object: a workdir is no name of a shipped model.
        print(api.export(epath.Path(workdir), os.path.join(workdir, "export")))
        return 0
    with stop_lib.GracefulStop() as stop:
        try:
            work.execute(config, workdir, _MODE.value, stop)
        except stop_lib.Stopped as stopped:
            _LOG.warning("%s; the same command continues it", stopped)
            return stopped.exit_status
    if work is paper_table:
        paper_table.print_table(config, workdir)
    elif work is task_chain and _MODE.value != "train":
        task_chain.print_table(workdir)
    elif work is stages and _MODE.value in ("run", "evaluate", "report"):
        report_stage.print_table(workdir)
    return 0


def _guarded(run: Callable[[list[str]], int], argv: list[str]) -> int:
    try:
        return run(argv)
    except errors.UserError as error:
        if _TRACEBACK.value:
            raise
        return _ended(2, error)
    except KeyboardInterrupt:  # The second ctrl-C, or one before the run began.
        return _ended(130, "stopped by ctrl-C; the same command continues")
    except Exception as error:
        from madad_jax.runtime import watchdog

        if isinstance(error, watchdog.Lost):
            return _ended(watchdog.EXIT_LOST, error)
        if watchdog.is_loss(error):
            if _TRACEBACK.value:
                traceback.print_exc()
            return _ended(watchdog.EXIT_LOST, watchdog.lost(error))
        if watchdog.several():
            traceback.print_exc()
            return _ended(1, f"{type(error).__name__}: {error}")
        raise


def _ended(status: int, message: object) -> int:
    """Says why, and ends the process; in a job of several the others end with this one.

    The ordinary way out would wait for threads of Orbax, and those of a failed save never end.
    """
    if "jax" not in sys.modules:  # a mistake that was found before anything started
        print(f"madad_jax: error: {message}", file=sys.stderr)
        return status
    from madad_jax.runtime import watchdog

    watchdog.say(str(message))
    watchdog.end(status, str(message))


def _parse(argv: list[str]) -> list[str]:
    """Parses the flags; whatever is wrong with them or the config ends in one line, status 2."""
    if "--help" in argv or "-h" in argv:
        # absl lists the flags of `__main__`, which is another module behind `madad-jax VERB`.
        own = flags.FLAGS.main_module_help()
        print(f"{__doc__}\n{own or flags.FLAGS.module_help(__name__)}")
        sys.exit(0)
    try:
        shipped_configs.make_importable()
        return flags.FLAGS(_located(argv))
    except (
        *(flags.Error, errors.UserError),
        *(AttributeError, KeyError, TypeError, ValueError, OSError),
    ) as error:
        if "--traceback" in argv:
            raise
        print(f"madad_jax: error: {_explain(error, argv)}", file=sys.stderr)
        sys.exit(2)


def _located(argv: list[str]) -> list[str]:
    """The command line with the value of `--config` as a file's path."""
    words = list(argv)
    for i, word in enumerate(words):
        flag, equals, value = word.partition("=")
        if flag in ("--config", "-config") and equals:
            words[i] = f"{flag}={_find_config(value)}"
        elif word in ("--config", "-config") and i + 1 < len(words):
            words[i + 1] = _find_config(words[i + 1])
    return words


def _find_config(value: str) -> str:
    located = shipped_configs.locate(value)
    shipped_configs.require(located)
    return located


def _explain(error: Exception, argv: list[str]) -> str:
    """One line. For a mistyped config key ml_collections knows the near miss but not the flag."""
    text = " ".join(str(error).split()).strip("\"'")
    if isinstance(error, AttributeError | KeyError):
        key = next(iter(re.findall(r"\w+", text.replace("\\n", " "))), "")
        flag = next((a for a in argv[1:] if key in a.split("=")[0].split(".")), "--config")
        near = (re.findall(r"Did you mean .*\?", text) or [""])[0]
        return f"{flag}: the config has no key {key!r}. {near}".strip()
    return text


def main(run: Callable[[list[str]], int] = _run) -> None:
    """Entry point of `python -m madad_jax.main`; `run` is another command with its flags."""
    # Libraries speak at every file they touch; a person wants our lines and their warnings.
    absl_logging.set_verbosity(absl_logging.WARNING)
    command_line.show_log()
    app.run(functools.partial(_guarded, run), flags_parser=_parse)


if __name__ == "__main__":
    main()
