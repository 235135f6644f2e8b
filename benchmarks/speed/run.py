"""`benchmarks.speed`: suites against what people would use instead, row by row.

Every row is stored as soon as it is measured (results.py), so that a stopped benchmark loses the
row it was at; the same command with `--suite` and `benchmark.rows` measures some again.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any

from etils import epath

from benchmarks.speed import context as context_lib
from benchmarks.speed import machine, results, rival
from benchmarks.speed.suites import (
    encode,
    evaluate,
    growth,
    inputs,
    prepare,
    profile,
    sample,
    start,
    train,
)
from madad_jax.core import errors

_LOG = logging.getLogger(__name__)

SUITES: dict[str, Callable[[context_lib.Context], context_lib.Rows]] = {
    "train": train.rows,
    "sample": sample.rows,
    "encode": encode.rows,
    "evaluate": evaluate.rows,
    "prepare": prepare.rows,
    "input": inputs.rows,
    "start": start.rows,
    "growth": growth.rows,
    "profile": profile.rows,
}
_WITH_NETWORKS = ("train", "sample", "encode")
NO_PYTHON = "benchmark.rival_python names no Python with torch, monai and diffusers"


def execute(
    config: Any, workdir: str, suites: Sequence[str] = (), config_flags: Sequence[str] = ()
) -> None:
    """Measures and prints the chosen suites; all of them when none is named.

    Args:
      config: the run's.
      workdir: results stand in its folder `benchmark`.
      suites: names of `SUITES`.
      config_flags: `--config...` as they were given, for suites that start the command.

    Raises:
      UserError: an unknown suite, way or row, or a rival that does not start.
    """
    chosen = list(suites) or list(SUITES)
    _check(config, chosen)
    folder = epath.Path(workdir) / "benchmark"
    context = context_lib.Context(config, folder, tuple(config_flags), None, NO_PYTHON)
    planned = _planned(context, chosen)
    with_networks = any(suite in _WITH_NETWORKS for suite, _ in planned)
    if config.benchmark.rival_python and with_networks:
        with rival.Rival(config.benchmark.rival_python) as other:
            missing = [n for n in rival.LIBRARIES if not other.versions.get(n)]
            if missing:
                context.why_not = f"{config.benchmark.rival_python} has no {', '.join(missing)}"
            else:
                context.networks = other
            _measure_all(context, planned, _versions(other))
    else:
        _measure_all(context, planned, "none")
    print((folder / results.TABLE).read_text())
    print(f"benchmark: {folder / results.TABLE}, {folder / results.JSON}")


def _check(config: Any, suites: Sequence[str]) -> None:
    unknown = [name for name in suites if name not in SUITES]
    if unknown:
        raise errors.UserError(f"--suite: found {unknown[0]!r}, accepted: {', '.join(SUITES)}")
    o = config.benchmark
    for way in o.rivals:
        if way not in context_lib.WAYS:
            accepted = ", ".join(context_lib.WAYS)
            raise errors.UserError(f"benchmark.rivals: found {way!r}, accepted: {accepted}")
    for key in ("repeats", "batch_size", "live_batch_size", "maps", "official_maps", "scans"):
        if o[key] < 1:
            raise errors.UserError(f"benchmark.{key}: found {o[key]}, must be 1 or more")


def _planned(
    context: context_lib.Context, suites: Sequence[str]
) -> list[tuple[str, dict[str, Callable[[], results.Row]]]]:
    """[(suite, its chosen rows)]. Raises UserError when no row has the words asked for."""
    wanted = [word.strip() for word in context.options.rows.split(";") if word.strip()]
    planned, names = [], []
    for suite in suites:
        found = SUITES[suite](context)
        names += [f"{suite}: {name}" for name in found]
        kept = {n: f for n, f in found.items() if not wanted or any(w in n for w in wanted)}
        if kept:
            planned.append((suite, kept))
    if not planned:
        raise errors.UserError(
            f"benchmark.rows: found {context.options.rows!r}, which no row contains; "
            f"accepted: parts, with ; between, of {'; '.join(names)}"
        )
    return planned


def _versions(other: rival.Rival) -> str:
    return ", ".join(f"{name} {value}" for name, value in other.versions.items() if value)


def _measure_all(
    context: context_lib.Context,
    planned: Sequence[tuple[str, dict[str, Callable[[], results.Row]]]],
    rival_versions: str,
) -> None:
    if context.networks is None and any(suite in _WITH_NETWORKS for suite, _ in planned):
        _LOG.info("our figures alone: %s", context.why_not)
    for suite, chosen in planned:
        for name, measure in chosen.items():
            _LOG.info("%s: %s", suite, name)
            facts = machine.facts()  # the load before we add to it
            row = measure()
            results.store(context.folder, suite, row, facts | {"rival": rival_versions})
