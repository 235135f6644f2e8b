"""Two real processes: shared saves, damage that only one of them can see, preemption."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

_WORKER = """
import os, pathlib, signal, sys, time
folder, port, index = pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
sys.path.insert(0, sys.argv[4])
from madad_jax.runtime import startup, stop as stop_lib
startup.start(distributed=True, coordinator_address=f"localhost:{port}", num_processes=2,
              process_id=index)
import jax, numpy as np
from jax.experimental import multihost_utils
from madad_jax.checkpoints import digests, saver as saver_lib
from madad_jax.devices import batches, mesh as mesh_lib
from tests.checkpoints import cases

mesh = mesh_lib.make_mesh(1, 2, 1)
assert batches.data_process(mesh) == (index, 2)
batch = batches.global_batch(mesh, {"image": np.full((2, 3), index, np.float32), "t": np.int32(5)})
assert batch["image"].shape == (4, 3) and float(batch["image"].sum()) == 6
target = cases.sharded(mesh)
shardings = jax.tree.map(lambda x: x.sharding, target)
make = lambda step: jax.jit(cases.make_state, out_shardings=shardings)(step)
whole = lambda state: digests.tree_digests(state)

with saver_lib.Checkpointer(folder) as saver:
    for step in (1, 2):
        assert saver.save(step, make(step), {"position": step}, {})
with saver_lib.Checkpointer(folder) as saver:
    restored = saver.restore_latest(target)
    assert restored.step == 2 and whole(restored.state) == whole(make(2))
    if index == 0:
        files = (folder / "2" / "train_state" / "ocdbt.process_1" / "d").iterdir()
        path = max(files, key=lambda p: p.stat().st_size)
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 16
        path.write_bytes(content)
    multihost_utils.sync_global_devices("damaged")
    restored = saver.restore_latest(target)
    assert restored.step == 1 and whole(restored.state) == whole(make(1))
    print("reason:", saver.problems[0].reason, flush=True)
    assert saver.all_steps() == [1] and saver.save(2, make(2), {"position": 2}, {})
    saver.wait()

with stop_lib.GracefulStop() as stop:
    for step in range(3, 2000):
        multihost_utils.process_allgather(np.asarray(step))
        if step == 10:
            print("running", flush=True)
        if stop.requested(step):
            break
        time.sleep(0.01)
print("stopped", step, stop.exit_status, flush=True)
with saver_lib.Checkpointer(folder) as saver:
    assert saver.save(step, make(step), {"position": step}, {})
"""


@pytest.mark.slow
@pytest.mark.multiprocess
def test_two_processes(tmp_path):
    root = str(pathlib.Path(__file__).parents[2])
    env = dict(os.environ, XLA_FLAGS="--xla_force_host_platform_device_count=1")
    port = str(20000 + os.getpid() % 20000)
    command = [sys.executable, "-c", _WORKER, str(tmp_path / "c"), port]
    processes = [
        subprocess.Popen(
            [*command, str(index), root],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    try:
        lines = []
        while (line := processes[1].stdout.readline()) and line != "running\n":
            lines.append(line)
        assert line, processes[1].stderr.read()[-3000:]
        processes[1].send_signal(signal.SIGTERM)  # One host only: both must stop, together.
        rest = [process.communicate(timeout=100) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], rest[0][1] + rest[1][1]
    assert "does not match its digest" in "".join(lines)
    first, second = (output.splitlines()[-1] for output, _ in rest)
    assert first == second and first.startswith("stopped") and first.endswith("143")
    steps = sorted(int(p.name) for p in (tmp_path / "c").iterdir() if p.name.isdigit())
    assert steps == [2, int(first.split()[1])]
