"""The preparation of a whole folder: plan, prepare in processes, write what belongs to all.

Scans are independent: each is prepared by one worker process that also writes it, so memory is
bounded by a scan for each worker, and a scan that cannot be used never stops the others.
"""

import concurrent.futures
import contextlib
import ctypes
import dataclasses
import json
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import tqdm
from etils import epath

from madad_jax.core import errors, folder_lock
from madad_jax.data.sources import record
from madad_jax.prepare import ages as ages_lib
from madad_jax.prepare import beam, card, cohorts, contact_sheet, output, splits, subject

_LOCK = ".prepare/lock"
_DEATH_SIGNAL = 1  # Linux: PR_SET_PDEATHSIG.
# Libraries' own threads on top of our processes only get in each other's way.
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclasses.dataclass(frozen=True)
class Job:
    """What is asked for.

    Attributes:
      cohort: the table.
      root: folder of the scans.
      out: prepared folder; new, empty, or one that this program made.
      modalities: in order; the first is the reference of each scan.
      options: how scans are prepared.
      fractions: of the people, by split; used without lists.
      seed: of the division.
      lists: {id: split}; None: by hash.
      workers: processes, where the runner is local.
      runner: `local`, or an Apache Beam runner by name.
      beam_options: of Apache Beam, as on a command line.
      prune: remove scans prepared earlier whose files are gone.
      ages: of gestation, for templates of several weeks.
    """

    cohort: cohorts.Cohort
    root: str
    out: str
    modalities: tuple[str, ...]
    options: subject.Options
    fractions: dict[str, float]
    seed: int = 0
    lists: dict[str, str] | None = None
    workers: int = 1
    prune: bool = False
    runner: str = "local"
    beam_options: str = ""
    ages: ages_lib.Ages = dataclasses.field(default_factory=ages_lib.Ages)

    def settings(self) -> dict[str, Any]:
        """What all scans of one prepared folder must share."""
        return {
            "version": output.VERSION,
            "cohort": self.cohort.title,
            "modalities": list(self.modalities),
            "options": self.options.to_dict(),
            "fractions": self.fractions if self.lists is None else None,
            "seed": self.seed if self.lists is None else None,
            "lists": None if self.lists is None else record.digest(self.lists)[:16],
        }


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a run would do.

    Attributes:
      todo: scans to prepare.
      current: scans that are done already.
      refused: {scan: why}.
      unlisted: scans that no list names.
      gone: scans prepared earlier whose files are not there any more.
      lent: people of `train` who stand in `val`, which would be too small without them.
    """

    todo: tuple[subject.Item, ...]
    current: tuple[subject.Item, ...]
    refused: dict[str, str]
    unlisted: tuple[str, ...]
    gone: tuple[str, ...]
    lent: tuple[str, ...] = ()


def plan(job: Job) -> Plan:
    """Looks at both folders and changes nothing.

    Raises:
      UserError: no scan, a bad option, a person in two splits, or an `out` that was made
        differently or not by this program.
    """
    job.options.check()
    if job.runner != "local":
        beam.check(job.runner, job.beam_options)
    out = epath.Path(job.out)
    output.check_settings(out, job.settings())
    found = cohorts.find(job.cohort, job.root, job.modalities)
    aged, unaged = ages_lib.assign(found.items, job.ages, job.options.preparation.template)
    refused = found.refused | unaged
    items, unlisted = splits.assign(aged, fractions=job.fractions, seed=job.seed, lists=job.lists)
    states = output.read_states(out)
    todo, current = [], []
    for item in items:
        done = output.is_current(out, item, job.options, job.root, states.get(item.scan))
        (current if done else todo).append(item)
    # Unlisted scans count as gone: no split would own their pictures.
    here = {item.scan for item in items} | set(refused)
    gone = tuple(scan for scan in states if scan not in here)
    lent = splits.lent(items, job.fractions, job.seed) if job.lists is None else ()
    return Plan(tuple(todo), tuple(current), refused, tuple(unlisted), gone, lent)


def prepare(job: Job) -> card.Summary:
    """Prepares what is not done yet and brings everything that describes the folder up to date.

    Raises:
      UserError: see `plan`; or the folder cannot be written, or another run is writing it.
    """
    what = plan(job)
    out = epath.Path(job.out)
    # Two runs would undo each other's work.
    with folder_lock.hold(job.out, "--out", name=_LOCK):
        output.write_settings(out, job.settings())
        refused = dict(what.refused)
        # Before the others are prepared: no picture of a scan that is refused now may stay from
        # before.
        doomed = [*refused, *(what.gone if job.prune else ())]
        for scan in doomed:
            output.remove_scan(out, scan)
        for scan, error in _prepare_all(job, what.todo):
            if error:
                refused[scan] = error
        states = output.read_states(out)
        named = [item.scan for item in (*what.todo, *what.current)]
        output.remove_partial(out, [*named, *doomed], states)
        summary = card.Summary(
            title=job.cohort.title,
            rows=tuple(row for state in states.values() for row in state["rows"]),
            warnings={scan: state["warnings"] for scan, state in states.items()},
            refused=dict(sorted(refused.items())),
            unlisted=what.unlisted,
            gone=() if job.prune else what.gone,
            lent=what.lent,
        )
        _describe(job, out, states, summary)
    return summary


def _describe(job: Job, out: epath.Path, states: dict[str, Any], summary: card.Summary) -> None:
    """Writes the files about the whole folder, each only if it changed."""
    lines = "".join(json.dumps(row) + "\n" for row in summary.rows)
    output.write_if_changed(out / "manifest.jsonl", lines.encode())
    facts = {scan: state["facts"] for scan, state in states.items()}
    dataset = card.dataset(job.cohort, job.settings(), summary, facts)
    output.write_if_changed(out / "dataset.json", (json.dumps(dataset, indent=1) + "\n").encode())
    output.write_if_changed(out / "summary.md", card.summary_text(summary).encode())
    output.write_if_changed(
        out / "README.md", card.readme(job.cohort, job.settings(), summary).encode()
    )
    sheet = contact_sheet.draw(out, summary.rows, job.options.preparation.geometry)
    if sheet:
        output.write_if_changed(out / "contact_sheet.png", sheet)


def _prepare_all(job: Job, items: tuple[subject.Item, ...]) -> Iterator[tuple[str, str]]:
    """(scan, why it was refused or "") of every item, as they are done."""
    arguments = [(item, job.options, job.root, job.out) for item in items]
    bar = tqdm.tqdm(total=len(items), desc="prepare", unit="scan", disable=not items)
    failed = 0
    with bar:
        if job.runner != "local" and arguments:
            results = beam.results(arguments, _prepare_one, job.runner, job.beam_options)
        else:
            results = _results(job.workers, arguments)
        for scan, error in results:
            failed += bool(error)
            bar.update()
            bar.set_postfix(refused=failed, refresh=False)
            yield scan, error


def _results(workers: int, arguments: list[tuple]) -> Iterator[tuple[str, str]]:
    if workers < 1:
        raise errors.UserError(f"workers: found {workers}, accepted: 1 or more")
    if not arguments:
        return
    for name in _ONE_THREAD:
        os.environ.setdefault(name, "1")  # Inherited by the processes started below.
    with _held_signals() as deliver:
        yield from _pooled(workers, arguments, deliver)


def _pooled(
    workers: int, arguments: list[tuple], deliver: Callable[[], None]
) -> Iterator[tuple[str, str]]:
    pool = concurrent.futures.ProcessPoolExecutor(
        min(workers, len(arguments)),
        # Not forked: the parent has threads, and ITK's do not survive a fork.
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_follow_parent,
        initargs=(os.getpid(),),
    )
    try:
        waiting = {pool.submit(_prepare_one, *values) for values in arguments}
        while waiting:
            deliver()
            # Returns five times a second, so that a signal that was held back is seen.
            done, waiting = concurrent.futures.wait(
                waiting, timeout=0.2, return_when=concurrent.futures.FIRST_COMPLETED
            )
            for future in done:
                yield future.result()
        deliver()
    except concurrent.futures.process.BrokenProcessPool as error:
        raise errors.UserError(
            "a worker process was killed (out of memory?); the same command continues, perhaps "
            f"with fewer than --workers={workers}"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _held_signals() -> Iterator[Callable[[], None]]:
    """Holds SIGTERM and ctrl-C back until the yielded function is called.

    An exception in the midst of starting a process leaves the pool half started, and what is
    then raised is another error than the stop that was asked for.
    """
    came: list[int] = []
    old: dict[int, Any] = {}

    def restore() -> None:
        while old:
            signal.signal(*old.popitem())

    def deliver() -> None:
        if came:
            restore()
            signal.raise_signal(came[0])

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            old[number] = signal.signal(number, lambda number, _: came.append(number))
    try:
        yield deliver
    finally:
        restore()


def _prepare_one(
    item: subject.Item, options: subject.Options, root: str, out: str
) -> tuple[str, str]:
    """Prepares and writes one scan; (scan, why it was refused or "")."""
    try:
        prepared = subject.prepare_subject(item, options)
    except errors.UserError as error:
        reason = str(error)
    except Exception as error:  # One odd file among a hospital's thousands stops nobody.
        traceback.print_exc()
        where = next(iter(item.images.values()))
        reason = f"'{where}': unexpected {type(error).__name__}: {error} (a bug; traceback above)"
    else:
        output.write_scan(epath.Path(out), item, options, prepared, root)
        return item.scan, ""
    output.remove_scan(epath.Path(out), item.scan)
    return item.scan, " ".join(reason.replace(root.rstrip("/") + "/", "").split())


def _follow_parent(parent: int) -> None:
    """Lets ctrl-C be the parent's affair, and ends this process when the parent was killed.

    At once where the system can (Linux): the next run may begin to write right away.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL)

    def watch():
        while os.getppid() == parent:
            time.sleep(0.5)
        # The parent was killed outright: nobody takes this result or stops this process.
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
