"""The other side of a benchmark: networks of PyTorch libraries behind a pipe.

    PYTHON serve.py

reads one JSON object a line from standard input and answers with one a line. It runs in another
environment than this package, so that neither side loads the other's libraries, and knows
nothing of it: all sizes come with the request. Requests, by `do`:

    hello                    versions (null: not installed), device, threads
    make   key, job, ...     builds a job (jobs.py) and runs it once: parameters, first_seconds
    run    key               seconds, cpu_seconds of one run, and its result where it has one
    drop   key               forgets a job
    memory                   peak_bytes of this process

What goes wrong is answered as {"error": one line}; the next request is served all the same.
"""

import gc
import json
import os
import platform
import sys
import time
from importlib import metadata

_JOBS = {}


def _version(name):
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def hello(request):
    """Versions and device."""
    del request
    found = {name: _version(name) for name in ("numpy", "torch", "monai", "diffusers")}
    found["python"] = platform.python_version()
    if found["torch"]:
        import torch

        cuda = torch.cuda.is_available()
        found["device"] = torch.cuda.get_device_name() if cuda else "cpu"
        found["threads"] = torch.get_num_threads()
    return found


def _timed(job):
    cpu, start = time.process_time(), time.perf_counter()
    result = job.run()
    job.wait()
    answer = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}
    return answer if result is None else answer | {"result": result}


def make(request):
    """Builds a job; the first run compiles what is compiled."""
    if request["job"] == "metrics":
        import official_metrics

        job = official_metrics.build(request)
    else:
        import jobs

        job = jobs.build(request)
    first = _timed(job) if request.get("first", True) else {"seconds": 0.0}
    _JOBS[request["key"]] = job
    return job.facts | {"first_seconds": first["seconds"]}


def run(request):
    """One timed run."""
    return _timed(_JOBS[request["key"]])


def drop(request):
    """Forgets a job and gives its memory back."""
    _JOBS.pop(request["key"], None)
    gc.collect()
    return {}


def memory(request):
    """Largest resident memory so far."""
    del request
    try:
        with open("/proc/self/status") as file:
            line = next(text for text in file if text.startswith("VmHWM:"))
        return {"peak_bytes": int(line.split()[1]) * 1024}
    except (OSError, StopIteration):
        return {"peak_bytes": 0}


_DO = {"hello": hello, "make": make, "run": run, "drop": drop, "memory": memory}


def main():
    """Serves until standard input ends."""
    # Libraries that print must not be taken for answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        try:
            request = json.loads(line)
            answer = _DO[request["do"]](request)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
