"""The preparation's scans as an Apache Beam pipeline, for folders that one machine cannot do.

    python -m madad_jax prepare ... --runner=DirectRunner
    python -m madad_jax prepare ... --in=gs://scans --out=gs://out --runner=DataflowRunner \\
        --beam_options="--project=p --region=r --temp_location=gs://tmp --setup_file=./setup.py"

One element is one scan: a worker holds one at a time and writes it itself, by the very function
that the local processes run, hence the same bytes. What was refused is written down beside the
states, because a pipeline returns nothing; the program that started it then reads both and writes
what describes the whole folder. Stopped, the same command continues: scans that are done are not
elements of the next pipeline.

Needs `pip install "madad_jax[beam]"`. The DirectRunner takes all cores of this machine unless
--beam_options say otherwise.
"""

import importlib.util
import json
import os
import shlex
from collections.abc import Callable, Iterator
from typing import Any

from etils import epath

from madad_jax.core import atomic_files, errors, file_names, json_file

_REFUSED = ".prepare/refused"
# All cores, each in a process of its own: Python threads would wait for each other.
_DIRECT = ("--direct_num_workers=0", "--direct_running_mode=multi_processing")


def check(runner: str, options: str) -> None:
    """Finds mistakes before a pipeline starts.

    Raises:
      UserError: Apache Beam is not installed, or knows no such runner, or options that are none.
    """
    if importlib.util.find_spec("apache_beam") is None:
        raise errors.UserError(
            f"--runner={runner} needs Apache Beam; accepted: pip install 'madad_jax[beam]', or "
            "--runner=local"
        )
    _split(options)
    from apache_beam.runners import runner as beam_runner

    try:
        beam_runner.create_runner(runner)
    except (ValueError, ImportError, AttributeError) as error:
        raise errors.UserError(f"--runner={runner}: {str(error).splitlines()[0]}") from error


def results(
    arguments: list[tuple], work: Callable[..., tuple[str, str]], runner: str, options: str
) -> Iterator[tuple[str, str]]:
    """Runs `work(*arguments[i])` for every scan; yields (scan, why it was refused or "").

    Args:
      arguments: (item, options, root, out) of each scan, as `work` takes them.
      work: prepares and writes one scan; a function of a module, so that workers can import it.
      runner: a Beam runner by name.
      options: of Beam, as on a command line.

    Raises:
      UserError: the pipeline failed.
    """
    import apache_beam as beam
    from apache_beam.options import pipeline_options

    out = epath.Path(arguments[0][3])
    refused = file_names.check_inside(out, _REFUSED, "--out")
    # Left by a run that was killed: those scans are tried again.
    if refused.is_dir():
        refused.rmtree()
    words = _split(options)
    if runner == "DirectRunner":
        words = [*_DIRECT, *words]
    settings = pipeline_options.PipelineOptions([f"--runner={runner}", *words])
    try:
        with beam.Pipeline(options=settings) as pipeline:
            _ = (
                pipeline
                | "scans" >> beam.Create(arguments)
                # Without it, runners fuse the steps and one worker gets all scans.
                | "spread" >> beam.Reshuffle()
                | "prepare" >> beam.Map(_one, work)
            )
    except Exception as error:  # Runners raise what they like, with pages of text.
        lines = [line for line in str(error).splitlines() if line.strip()] or [repr(error)]
        raise errors.UserError(
            f"--runner={runner}: the pipeline failed: {lines[-1][:300]}; the same command continues"
        ) from error
    why = {}
    for path in sorted(refused.glob("*.json")) if refused.is_dir() else ():
        why |= {scan: str(reason) for scan, reason in json_file.read_object(path).items()}
    if refused.is_dir():
        refused.rmtree()
    for item, *_ in arguments:
        yield item.scan, why.get(item.scan, "")


def _one(arguments: tuple[Any, ...], work: Callable[..., tuple[str, str]]) -> None:
    """In a worker: one scan; why it was refused stays as a file that the starter reads."""
    # Libraries' own threads on top of Beam's processes only get in each other's way.
    os.environ.setdefault("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "1")
    scan, error = work(*arguments)
    if error:
        path = epath.Path(arguments[3]) / _REFUSED / f"{scan}.json"
        atomic_files.write_text(path, json.dumps({scan: error}))


def _split(options: str) -> list[str]:
    try:
        words = shlex.split(options)
    except ValueError as error:
        raise errors.UserError(f"--beam_options: {error}; found: {options}") from error
    odd = next((word for word in words if not word.startswith("--")), None)
    if odd:
        raise errors.UserError(
            f"--beam_options: found {odd!r}, accepted: --name=value words of Apache Beam"
        )
    return words
