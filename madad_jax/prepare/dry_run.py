"""What a preparation would do with each scan, without doing it."""

from madad_jax.core import errors
from madad_jax.data import reading
from madad_jax.prepare import job as job_lib


def show(job: job_lib.Job) -> int:
    """Prints a line a scan and the totals; 1 if a scan would be refused, else 0.

    Reads the headers, not the voxels: damage behind a header shows up in the run itself.

    Raises:
      UserError: see `run.plan`.
    """
    what = job_lib.plan(job)
    refused = dict(what.refused)
    for item in what.todo:
        try:
            facts = [reading.describe(path) for path in item.paths]
        except errors.UserError as error:
            refused[item.scan] = str(error)
            continue
        print(f"prepare  {item.scan} ({item.split}): {_files(item, job.root, facts)}")
    for item in what.current:
        print(f"done     {item.scan} ({item.split})")
    for scan, why in sorted(refused.items()):
        print(f"refuse   {scan}: {why}")
    for scan in what.unlisted:
        print(f"leave    {scan}: in no split list")
    for person in what.lent:
        print(f"lend     {person}: to val, which would have fewer than two people")
    for scan in what.gone:
        print(f"{'remove ' if job.prune else 'keep   '}  {scan}: its files are gone")
    options, preparation = job.options, job.options.preparation
    geometry = preparation.geometry
    # `refused` holds the plan's and those whose headers were refused here; the latter are still in
    # `todo`.
    print(
        f"\n{len(what.todo) + len(what.refused) - len(refused)} to prepare, {len(what.current)} "
        f"done, {len(refused)} refused; registration {preparation.registration}, brain mask "
        f"{preparation.brain_mask}, protocol {options.protocol}, {geometry.image_size} px over "
        f"{geometry.field_of_view:g} mm"
    )
    return 1 if refused else 0


def _files(item, root: str, facts: list[str]) -> str:
    names = [path.removeprefix(root + "/") for path in item.paths]
    return "; ".join(f"{name} [{fact}]" for name, fact in zip(names, facts, strict=True))
