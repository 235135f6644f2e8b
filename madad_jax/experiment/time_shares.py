"""The shares of a run's wall time: a line at its end, and a row of `metrics.jsonl`."""

import contextlib
import logging
from collections.abc import Iterator

from madad_jax.experiment import workdir as workdir_lib
from madad_jax.runtime import stop as stop_lib
from madad_jax.runtime import wall_time
from madad_jax.training import metric_log

_LOG = logging.getLogger(__name__)

SPLIT = "goodput"  # of its rows, which are no curve over steps


@contextlib.contextmanager
def counted(workdir: workdir_lib.Workdir) -> Iterator[None]:
    """Counts the time inside for the run; says its shares when it is done or was stopped."""
    with wall_time.account(workdir.folder, workdir.primary) as account:
        try:
            yield
        except stop_lib.Stopped:
            _tell(account, workdir)
            raise
        _tell(account, workdir)


def _tell(account: wall_time.Account, workdir: workdir_lib.Workdir) -> None:
    shares = account.shares()
    if workdir.primary:
        with metric_log.MetricWriter(workdir.folder) as writer:
            # Its step is the number of the start: each leaves one row at most.
            writer.write("run", SPLIT, account.starts, shares)
        _LOG.info("%s", line(shares, account.starts))


def line(shares: dict[str, float], starts: int) -> str:
    """What `Account.shares` gives, in words.

    Args:
      shares: `wall_seconds`, `cpu_seconds` and the share of each part.
      starts: of the run, this one among them.
    """
    parts = ", ".join(f"{part} {shares[part]:.1%}" for part in wall_time.PARTS)
    times = "1 start" if starts == 1 else f"{starts} starts"
    wall, cpu = shares["wall_seconds"], shares["cpu_seconds"]
    return f"wall time {wall:.0f} s in {times}, CPU time {cpu:.0f} s: {parts}"
