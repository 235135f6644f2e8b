"""docs/notebooks/score_a_scan.ipynb runs from top to bottom."""

import json
import os
import subprocess
import sys

import pytest

from tests.docs import pages

NOTEBOOK = pages.DOCS / "notebooks" / "score_a_scan.ipynb"


def cells():
    """The code of the notebook, a text a cell."""
    content = json.loads(NOTEBOOK.read_text())
    return ["".join(c["source"]) for c in content["cells"] if c["cell_type"] == "code"]


def test_it_is_kept_without_outputs():
    content = json.loads(NOTEBOOK.read_text())
    assert all(not c.get("outputs") for c in content["cells"])
    for source in cells():
        compile(source, "cell", "exec")


@pytest.mark.slow
def test_its_code_finds_the_painted_lesion():
    """As a plain program, so that no notebook software is needed."""
    environment = os.environ | {"PYTHONPATH": str(pages.ROOT), "MPLBACKEND": "Agg"}
    done = subprocess.run(
        [sys.executable, "-"],
        input="\n\n".join(cells()),
        cwd=pages.ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "candidate" in done.stdout and "overlaps the painted lesion of 13.1 ml" in done.stdout


@pytest.mark.slow
def test_it_runs_in_a_kernel():
    nbclient = pytest.importorskip("nbclient", reason="nbclient is in requirements-docs.txt")
    pytest.importorskip("ipykernel", reason="ipykernel is in requirements-docs.txt")
    import nbformat

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    resources = {"metadata": {"path": str(pages.ROOT)}}
    client = nbclient.NotebookClient(notebook, timeout=900, resources=resources)
    client.kernel_name = "python3"
    client.execute()
    shown = [out for c in notebook.cells for out in c.get("outputs", []) if "data" in out]
    assert any("image/png" in out["data"] for out in shown)
