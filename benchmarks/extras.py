"""What each extra of pyproject.toml brings: resolved in an empty environment, and installed.

    python -m benchmarks.extras                       # resolves all: packages and megabytes
    python -m benchmarks.extras --only=track,gcs --install --work=build/extras

Resolving downloads no wheel that has metadata beside it. --install really installs each and
imports what it is for; accelerators' extras are resolved alone, since a machine without one
learns nothing from the gigabytes. Exit status: 0 all did; 1 some did not.
"""

import argparse
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import tomllib
import urllib.request

ROOT = pathlib.Path(__file__).parents[1]
ACCELERATORS = ("cuda12", "cuda13", "tpu")
# What proves that an extra is there.
IMPORTS = {
    "gcs": ("gcsfs", "google.cloud.storage"),
    "dicom": ("highdicom",),
    "notebook": ("ipyniivue", "ipykernel", "nbclient"),
    "track": ("wandb", "mlflow"),
    "beam": ("apache_beam",),
}


def names() -> list[str]:
    """The extras of pyproject.toml, in its order."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return list(project["optional-dependencies"])


def resolve(python: pathlib.Path, name: str, constraints: str) -> dict:
    """{packages, megabytes, error} of `pip install --dry-run madad_jax[name]`.

    Args:
      python: of an empty environment.
      name: of the extra; "" for none.
      constraints: file of versions; "" for the newest.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = pathlib.Path(folder) / "report.json"
        target = f"{ROOT}[{name}]" if name else str(ROOT)
        words = ["install", "--dry-run", "--ignore-installed", "--quiet", f"--report={report}"]
        words += ["--prefer-binary", *(["-c", constraints] if constraints else []), target]
        done = _pip(python, words)
        if done.returncode:
            return {"packages": 0, "megabytes": 0.0, "error": _last(done.stderr)}
        found = json.loads(report.read_text())["install"]
    sizes = [_size(item["download_info"]["url"]) for item in found]
    return {"packages": len(found), "megabytes": sum(sizes) / 1e6, "error": ""}


def install(python: pathlib.Path, name: str, constraints: str) -> str:
    """Installs an extra and imports what it is for; "" or what went wrong."""
    # Not compiled: only what is imported below is worth its bytecode.
    words = ["install", "--quiet", "--no-compile", "--prefer-binary"]
    words += ["-c", constraints] if constraints else []
    done = _pip(python, [*words, f"{ROOT}[{name}]"])
    if done.returncode:
        return _last(done.stderr)
    code = "; ".join(f"import {module}" for module in ("madad_jax", *IMPORTS[name]))
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return _last(done.stderr) if done.returncode else ""


def _pip(python: pathlib.Path, words: list[str]) -> subprocess.CompletedProcess:
    # The pip that is here works on the other environment, which needs none of its own.
    command = [sys.executable, "-m", "pip", f"--python={python}", "--disable-pip-version-check"]
    command += words
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _last(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return next((line for line in reversed(lines) if "ERROR" in line), lines[-1] if lines else "?")


def _size(url: str) -> int:
    """Bytes of a wheel; 0 where nobody says, and for this project's own folder."""
    if not url.startswith("http"):
        path = pathlib.Path(urllib.request.url2pathname(url.removeprefix("file://")))
        return path.stat().st_size if path.is_file() else 0
    try:
        request = urllib.request.Request(url, method="HEAD")
        with urllib.request.urlopen(request, timeout=20) as answer:
            return int(answer.headers.get("Content-Length", 0))
    except OSError:
        return 0


def main() -> int:
    """Prints a line for each extra."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--only", default="", help="names with commas; all when left out")
    parser.add_argument("--install", action="store_true", help="install and import them too")
    parser.add_argument("--constraints", default="", help="file of versions; the newest without")
    parser.add_argument("--work", default="", help="folder of the environments, removed after use")
    options = parser.parse_args()
    wanted = options.only.split(",") if options.only else names()
    failed = False
    print("extra      packages  megabytes  outcome")
    for name in wanted:
        place = pathlib.Path(tempfile.mkdtemp(dir=options.work or None))
        try:
            subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
            python = place / "bin" / "python"
            found = resolve(python, name, options.constraints)
            outcome = found["error"] or "resolves"
            if options.install and not found["error"] and name not in ACCELERATORS:
                wrong = install(python, name, options.constraints)
                outcome = wrong or f"installs, imports {', '.join(IMPORTS[name])}"
                failed = failed or bool(wrong)
            failed = failed or bool(found["error"])
        finally:
            shutil.rmtree(place, ignore_errors=True)
        megabytes = found["megabytes"]
        print(f"{name:10} {found['packages']:8}  {megabytes:9.0f}  {outcome}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
