"""The real command, to which something happens at a chosen moment of the denoiser's training.

    python -m tests.e2e.dies_in step|save|commit|lost STEP <flags of madad_jax.main>

It kills itself (SIGKILL) but for the last, where its unfinished save is taken away.

step: as step STEP begins, while the others enter it. save: while the arrays of STEP are being
written in the background. commit: when all is written and nothing renamed yet (process 0). lost:
at the same moment.
"""

import os
import runpy
import shutil
import signal
import sys

from orbax.checkpoint._src.path import atomicity

from madad_jax.checkpoints import saver
from madad_jax.runtime import watchdog


def _die():
    os.kill(os.getpid(), signal.SIGKILL)


def _arm(moment, step):
    if moment == "step":
        progress = watchdog.progress
        watchdog.progress = lambda what: (
            progress(what),
            what == f"denoiser: step {step}" and _die(),
        )
    elif moment == "save":
        save = saver.Checkpointer.save

        def dying(self, number, *args, **kwargs):
            save(self, number, *args, **kwargs)
            if number == step and "denoiser" in str(self.directory):
                _die()

        saver.Checkpointer.save = dying
    else:
        finalize = atomicity.AtomicRenameTemporaryPath.finalize

        async def dying_finalize(self, *args, **kwargs):
            final = self.get_final()
            if final.name == str(step) and "denoiser" in str(final):
                if moment == "commit":
                    _die()
                shutil.rmtree(self.get())
            return await finalize(self, *args, **kwargs)

        atomicity.AtomicRenameTemporaryPath.finalize = dying_finalize


if __name__ == "__main__":
    _arm(sys.argv[1], int(sys.argv[2]))
    sys.argv = ["madad_jax.main", *sys.argv[3:]]
    runpy.run_module("madad_jax.main", run_name="__main__")
