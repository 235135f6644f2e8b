"""The preparation as a Beam pipeline: the same folder as from local processes."""

import importlib.util

import pytest

from madad_jax.core import errors
from madad_jax.prepare import beam
from tests.prepare import test_job
from tests.scans import cases

_BEAM = importlib.util.find_spec("apache_beam") is not None
needs_beam = pytest.mark.skipif(not _BEAM, reason="apache_beam is not installed ([beam])")


@pytest.mark.skipif(_BEAM, reason="apache_beam is installed")
def test_without_beam_the_message_says_what_to_install():
    with pytest.raises(errors.UserError, match=r"--runner=FlinkRunner needs Apache Beam; .*\[beam"):
        beam.check("FlinkRunner", "")


@needs_beam
@pytest.mark.parametrize(
    "runner,options,message",
    [
        ("NoRunner", "", "--runner=NoRunner: "),
        ("DirectRunner", "word", "--beam_options: found 'word'"),
        ("DirectRunner", "'--a", "--beam_options: No closing quotation"),
    ],
)
def test_mistakes_are_found_before_the_pipeline(runner, options, message):
    with pytest.raises(errors.UserError, match=message):
        beam.check(runner, options)


@needs_beam
@pytest.mark.slow
def test_direct_runner_writes_what_local_processes_write(tmp_path):
    place = tmp_path / "in"
    for k in range(3):
        cases.write(place, f"good{k}", voxel=(3.0, 3.0, 3.0))
    (place / "text_T1.nii.gz").write_text("hello")
    content = (place / "good0_T1.nii.gz").read_bytes()
    (place / "cut_T1.nii.gz").write_bytes(content[: len(content) // 2])
    (tmp_path / "table.yaml").write_text(test_job.TABLE)
    local, piped = tmp_path / "local", tmp_path / "piped"
    first = test_job.command(place, local)
    second = test_job.command(place, piped, "--runner=DirectRunner")
    assert first.returncode == second.returncode == 1, second.stderr
    assert "truncated or damaged" in second.stdout
    ours, theirs = test_job.tree(piped), test_job.tree(local)
    assert ours.keys() == theirs.keys() and any(name.endswith("T1.png") for name in ours)
    assert ours == theirs
    again = test_job.command(place, piped, "--runner=DirectRunner")
    assert again.returncode == 1 and test_job.tree(piped) == theirs
