import json
import os
import pathlib
import pickle
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from madad_jax.core import errors
from madad_jax.diffusion import schedule
from madad_jax.runtime import executables, fingerprints, private_folder

X = np.arange(6.0, dtype=np.float32)
# Of this process alone: programs out of JAX's own cache are not kept.
RATE = 0.5 + int.from_bytes(os.urandom(2)) * 1e-6


@pytest.fixture(autouse=True)
def folder(tmp_path):
    place = tmp_path / "cache" / executables.NAME
    least = jax.config.values["jax_persistent_cache_min_compile_time_secs"]
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1e9)
    executables.use(place)
    executables.counts.clear()
    yield place
    executables.use(None)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", least)


def make(x=X, rate=RATE, name="rate"):
    """The rate of a schedule: a closure that holds a number."""
    program = optax.cosine_decay_schedule(rate, 6, 0.1)
    return executables.compiled(
        name, jax.jit(program), (jnp.asarray(x),), program, jax.devices()[:1]
    )(jnp.asarray(x))


def programs(folder):
    """The files that hold a program, and not only the name of another file."""
    return [path for path in folder.iterdir() if "by_text" not in path.name]


def counts():
    found = dict(executables.counts)
    executables.counts.clear()
    return found


def test_the_second_time_is_loaded_and_equal_to_the_bit(folder):
    first = make()
    assert counts() == {"compiled": 1, "kept": 1}
    second = make()
    assert counts() == {"loaded": 1}
    assert first.tobytes() == second.tobytes()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [path.suffix for path in folder.iterdir()] == ["", ""]
    assert len(programs(folder)) == 1


def test_another_process_loads_it(folder, monkeypatch):
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "1e9")
    code = """
import sys, pathlib
sys.path[:0] = sys.argv[2:3]
from madad_jax.runtime import executables
from tests.runtime import test_executables as here
executables.use(pathlib.Path(sys.argv[1]))
print(here.make(rate=float(sys.argv[3])).tobytes().hex(), dict(executables.counts))
"""
    command = [sys.executable, "-c", code, str(folder), os.getcwd(), str(RATE)]
    found = [
        subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
        for _ in range(2)
    ]
    assert found[0].split()[0] == found[1].split()[0]
    assert "compiled" in found[0] and found[1].endswith("{'loaded': 1}")


def test_what_a_closure_holds_makes_another_program():
    """The length of the data stands in a schedule, and in no config."""
    first, second = make(), make(rate=RATE / 2)
    assert counts() == {"compiled": 2, "kept": 2}
    np.testing.assert_allclose(first, 2 * second, rtol=1e-6)


def test_other_shapes_and_types_make_another_program():
    make()
    assert make(X[:4]).shape == (4,)
    assert make(X.astype(np.int32)).dtype == np.float32
    assert counts() == {"compiled": 3, "kept": 3}


SURROUNDINGS = sorted(executables._surroundings())


@pytest.mark.parametrize("part", [part for part in SURROUNDINGS if part != "sources"])
def test_every_part_of_the_key_counts(part, monkeypatch):
    """Another version of jax, another processor, other flags: compiled, and not loaded."""
    make()
    real = executables._surroundings()
    assert real[part]
    monkeypatch.setattr(executables, "_surroundings", lambda: real | {part: "another"})
    counts()
    make()
    assert counts() == {"compiled": 1, "kept": 1}


def _with_other_sources(monkeypatch):
    real = executables._surroundings()
    monkeypatch.setattr(executables, "_surroundings", lambda: real | {"sources": "another"})


def test_other_sources_that_say_the_same_find_the_program(folder, monkeypatch):
    first = make()
    _with_other_sources(monkeypatch)
    counts()
    assert make().tobytes() == first.tobytes()
    assert counts() == {"loaded": 1}
    assert make(rate=RATE / 2).tobytes() != first.tobytes()
    assert counts() == {"compiled": 1, "kept": 1}
    # The next time nothing is lowered.
    monkeypatch.setattr(executables, "_describe_lowered", None)
    assert make().tobytes() == first.tobytes()
    assert counts() == {"loaded": 1}


def test_other_sources_do_not_find_a_damaged_program(folder, monkeypatch):
    first = make()
    [path] = programs(folder)
    path.write_bytes(path.read_bytes()[:-9])
    _with_other_sources(monkeypatch)
    counts()
    assert make().tobytes() == first.tobytes()
    assert counts() == {"refused": 1, "compiled": 1, "kept": 1}
    make()
    assert counts() == {"loaded": 1}


def test_the_key_sees_versions_flags_and_the_processor(monkeypatch):
    found = json.dumps(executables._surroundings())
    assert jax.__version__ in found and "jax_default_matmul_precision" in found
    assert "fpu" in found or "fp" in found  # an instruction set
    monkeypatch.setenv("XLA_FLAGS", "--xla_some_flag")
    assert json.dumps(executables._surroundings()) != found
    monkeypatch.undo()
    with jax.default_matmul_precision("float32"):
        assert json.dumps(executables._surroundings()) != found
    assert json.dumps(executables._surroundings()) == found


def test_a_file_under_the_name_of_another_program_is_not_loaded(folder):
    make()
    [path] = programs(folder)
    content = path.read_bytes()
    path.unlink()
    make(rate=RATE / 2)
    [other] = programs(folder)
    other.write_bytes(content)
    counts()
    assert float(make(rate=RATE / 2)[3]) == pytest.approx(float(make()[3]) / 2)
    assert counts() == {"refused": 1, "compiled": 2, "kept": 2}


@pytest.mark.parametrize("place", [0, 30, 60, 500, -1])
def test_a_damaged_file_is_compiled_anew(folder, place):
    first = make()
    [path] = programs(folder)
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    counts()
    assert make().tobytes() == first.tobytes()
    assert counts() == {"refused": 1, "compiled": 1, "kept": 1}
    make()
    assert counts() == {"loaded": 1}


@pytest.mark.parametrize("length", [0, 10, 100, 2000])
def test_a_file_that_was_cut_off_is_compiled_anew(folder, length):
    make()
    [path] = programs(folder)
    path.write_bytes(path.read_bytes()[:length])
    counts()
    make()
    assert counts() == {"refused": 1, "compiled": 1, "kept": 1}


def test_a_payload_that_no_backend_reads_is_compiled_anew(folder, monkeypatch):
    def serialize(made):
        content, *trees = real(made)
        return content[:-200], *trees

    real = executables.serialize_executable.serialize
    monkeypatch.setattr(executables.serialize_executable, "serialize", serialize)
    first = make()
    monkeypatch.undo()
    counts()
    assert make().tobytes() == first.tobytes()
    assert counts() == {"refused": 1, "compiled": 1, "kept": 1}


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, sprung):
        self.sprung = str(sprung)

    def __reduce__(self):
        return os.mkdir, (self.sprung,)


@pytest.fixture
def trap(folder, tmp_path):
    """A file whose every digest is right, with code of a stranger in it."""
    make()
    [path] = programs(folder)
    content = path.read_bytes()
    about = content[len(private_folder._MAGIC) + 32 :].partition(b"\n")[0].decode()
    private_folder.write(folder, path.name, about, pickle.dumps(Trap(tmp_path / "sprung")), 1 << 20)
    counts()
    yield path
    assert not (tmp_path / "sprung").exists()


def test_the_trap_is_one(trap, tmp_path):
    """In the user's own folder a pickle is code: what the checks below keep out."""
    make()
    assert (tmp_path / "sprung").exists()
    (tmp_path / "sprung").rmdir()


def compiled_in_spite_of(message, caplog):
    make()
    found = counts()
    assert found["refused"] == 1 and found["compiled"] == 1
    assert message in caplog.text


def test_a_folder_that_others_may_write_is_not_read(folder, trap, caplog):
    folder.chmod(0o770)
    compiled_in_spite_of("mode 770, accepted", caplog)
    assert not executables.counts["kept"]


def test_a_folder_of_another_user_is_not_read(trap, monkeypatch, caplog):
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    compiled_in_spite_of("accepted: owner", caplog)


def test_a_file_that_others_may_write_is_not_read(trap, caplog):
    trap.chmod(0o666)
    compiled_in_spite_of("others may write it", caplog)


def test_a_link_is_not_followed(folder, trap, tmp_path, caplog):
    trap.rename(tmp_path / "elsewhere")
    trap.symlink_to(tmp_path / "elsewhere")
    compiled_in_spite_of(trap.name, caplog)


def test_a_pipe_is_not_waited_for(trap, caplog):
    trap.unlink()
    os.mkfifo(trap, 0o600)
    compiled_in_spite_of("is no file", caplog)


def test_a_linked_folder_is_not_used(tmp_path, caplog):
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    executables.use(tmp_path / "link")
    assert "programs are not kept whole" in caplog.text
    make()
    assert counts() == {"compiled": 1}


def test_what_has_no_fingerprint_is_compiled_every_time(folder):
    def program(x):
        return x + 1

    for _ in range(2):
        executables.compiled("mine", jax.jit(program), (X,), program, jax.devices()[:1])
    assert counts() == {"compiled": 2, "not kept": 2}
    assert not list(folder.iterdir())


def test_a_program_out_of_the_compile_cache_is_not_kept(folder):
    """Written down a second time it would load, and fail where it is called."""

    ready = jax.jit(lambda x: x).lower(X).compile()

    class Cached:
        in_tree = out_tree = None

        def lower(self, *arguments):
            return self

        def as_text(self):
            return "x"

        def compile(self):
            jax.monitoring.record_event("/jax/compilation_cache/cache_hits")
            return ready

    made = executables.compiled("rate", Cached(), (X,), "reads", jax.devices()[:1])
    assert made is ready and counts() == {"compiled": 1, "not kept": 1}
    assert not list(folder.iterdir())


def test_a_job_of_several_processes_keeps_nothing(folder, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    make()
    assert counts() == {"compiled": 1} and not list(folder.iterdir())


def test_writers_at_once_leave_one_whole_file(folder):
    results = []
    threads = [threading.Thread(target=lambda: results.append(make())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({one.tobytes() for one in results}) == 1
    assert len(programs(folder)) == 1
    counts()
    make()
    assert counts() == {"loaded": 1}


def test_a_full_disk_costs_nothing_but_the_next_compilation(monkeypatch):
    def full(path, content):
        raise errors.UserError("no space left")

    monkeypatch.setattr(private_folder.atomic_files, "write_bytes", full)
    make()
    assert counts() == {"compiled": 1, "not kept": 1}


def test_the_files_unused_longest_are_forgotten(folder):
    for number in range(4):
        private_folder.write(folder, f"file{number}", "x", bytes(1000), 3000)
        os.utime(folder / f"file{number}", (number, number))
    assert sorted(path.name for path in folder.iterdir()) == ["file2", "file3"]


def test_shapes_are_traced_once(folder):
    traced = []

    def create():
        traced.append(1)
        return {"w": jnp.zeros((2, 3)), "n": (jnp.int32(0), None)}

    found = [executables.shapes("weights", create, "reads") for _ in range(2)]
    assert traced == [1] and found[0] == found[1]
    assert found[1]["w"].shape == (2, 3) and found[1]["n"][0].dtype == np.int32
    # Another function: JAX itself traces one function once a process.
    executables.shapes("weights", lambda: create(), "others")
    assert traced == [1, 1]


def test_a_fingerprint_sees_options_arrays_and_functions():
    def tx(length, clip=1.0):
        rate = optax.cosine_decay_schedule(1e-3, length, 0.1)
        return optax.chain(optax.clip_by_global_norm(clip), optax.adamw(rate))

    whole = fingerprints.fingerprint(tx(10))
    assert whole == fingerprints.fingerprint(tx(10))
    assert len({whole, *(fingerprints.fingerprint(tx(*a)) for a in ((11,), (10, 2.0)))}) == 3
    linear, cosine = (schedule.make_schedule(name, 10) for name in ("linear", "cosine"))
    assert fingerprints.fingerprint(linear) != fingerprints.fingerprint(cosine)
    a = np.zeros(3)
    assert fingerprints.fingerprint(a, a) != fingerprints.fingerprint(a, np.zeros(3) + 1)
    assert fingerprints.fingerprint(["ab"], "c") != fingerprints.fingerprint(["a"], "bc")
    assert fingerprints.fingerprint(1) != fingerprints.fingerprint(1.0)


@pytest.mark.parametrize("value", [object(), pathlib.Path("x"), np.array([object()]), {1: open}])
def test_what_is_not_known_has_no_fingerprint(value):
    if value == {1: open}:
        assert fingerprints.fingerprint(value)
    else:
        with pytest.raises(fingerprints.Unknown):
            fingerprints.fingerprint(value)
