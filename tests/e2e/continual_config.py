"""Two tiny sites one after another; as a program it trains them, and kills itself at `DIES_AT`.

python -m tests.e2e.continual_config ROOT_A ROOT_B WORKDIR
"""

import os
import signal
import sys

from tests.e2e import tiny_config

COMMAND = [sys.executable, "-m", "tests.e2e.continual_config"]


def tiny(root):
    c = tiny_config.get_config()
    c.data.root = root
    c.denoiser.hidden_size = 64  # more directions than the tiny slices fill
    c.eval.panels = 0
    return c


def get_config(root_a, root_b):
    c = tiny("")
    c.train.tasks = (f"A data.root={root_a}", f"B data.root={root_b}")
    c.train.continual.slices = 16
    return c


def _main(root_a, root_b, workdir):
    import jax

    from madad_jax.experiment import task_chain
    from madad_jax.runtime import stop, watchdog

    progress = watchdog.progress

    def dying(what):
        progress(what)
        if what == os.environ["DIES_AT"]:
            os.kill(os.getpid(), signal.SIGKILL)

    watchdog.progress = dying
    config = get_config(root_a, root_b)
    with stop.GracefulStop() as asked:
        task_chain.execute(config, workdir, "train", asked, jax.devices()[:1])


if __name__ == "__main__":
    _main(*sys.argv[1:])
