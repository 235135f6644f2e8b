"""What an experiment for a folder and a machine should be, and why: values, each with a sentence.

Two recipes. Without an accelerator it is that of configs/slices_cpu.py, whose networks learn in
minutes on two cores. With one it is the paper's, or its light preset where memory is short.
"""

import dataclasses
import shlex
from typing import Any

from madad_jax.core import errors
from madad_jax.data import folder_facts

SMALL, LIGHT, PAPER = "small", "light", "paper"
_SIDES = (128, 96, 64)  # px that the small networks are tried at
_LARGEST = 256  # px, the paper's
_STEP = 32  # px that a side is a multiple of
_PAPER_GIB = 20.0  # configs/brats.py: one 24 GB GPU
_FEWEST = {"train": (4, 32), "val": (2, 8)}  # people and slices
_FEWEST_SCANS = 8
_WARMUP_SHARE = 0.1  # of all steps
_WARMUP = "of the learning rate, a tenth of the steps at most"
_PREPARED = {"side": 96, "view": 192, "step": 2}  # px, mm, mm: as configs/models/ixi_t1.py
_SLICES_A_SCAN = 60  # of 2 mm, which a whole head leaves after empty ones


@dataclasses.dataclass(frozen=True)
class Machine:
    """Cores, memory in GiB, and accelerators that JAX sees: how many, which, GiB of each."""

    cores: int
    memory_gib: float
    accelerators: int = 0
    kind: str = ""
    accelerator_gib: float = 0.0

    def describe(self) -> str:
        """In words."""
        noun = "core" if self.cores == 1 else "cores"
        text = f"{self.cores} {noun}, {self.memory_gib:.0f} GiB"
        if self.accelerators:
            text += f", {self.accelerators} x {self.kind} of {self.accelerator_gib:.0f} GiB"
        return text


@dataclasses.dataclass(frozen=True)
class Choice:
    """A config key, its value, and why."""

    key: str
    value: Any
    why: str


@dataclasses.dataclass(frozen=True)
class Plan:
    """An experiment.

    Attributes:
      recipe: SMALL, LIGHT or PAPER.
      root: folder of the slices, which `prepare` may have to make first.
      modality: of them.
      choices: keys in the order of the file; `steps` among them where the recipe counts steps.
      remarks: lines about the folder.
      prepare: words of the command that makes the slices; "" where they are there.
      train_slices, scored_slices: counts, for the expected time.
    """

    recipe: str
    root: str
    modality: str
    choices: tuple[Choice, ...]
    remarks: tuple[str, ...]
    prepare: str
    train_slices: int
    scored_slices: int

    def value(self, key: str) -> Any:
        """The value of a key that is chosen."""
        return next(choice.value for choice in self.choices if choice.key == key)

    def with_steps(self, share: float, why: str) -> "Plan":
        """The same with this share of every `steps`, and of the warm-up."""

        def cut(choice: Choice) -> Choice:
            if choice.key.endswith("train.steps"):
                steps = max(1, round(choice.value * share))
                return dataclasses.replace(choice, value=steps, why=f"{choice.why}; {why}")
            if choice.key.endswith("warmup_epochs"):
                return dataclasses.replace(choice, value=round(choice.value * share, 4))
            return choice

        choices = [cut(choice) for choice in self.choices]
        return dataclasses.replace(self, choices=tuple(choices))


def choose(facts: folder_facts.Slices | folder_facts.Scans, machine: Machine) -> Plan:
    """A plan for what lies in a folder.

    Raises:
      UserError: too little to train or to calibrate on, with what is needed.
    """
    if isinstance(facts, folder_facts.Scans):
        return _for_scans(facts, machine)
    _check(facts)
    recipe, why = _recipe(machine)
    train, levels = facts.splits["train"], facts.splits["train"].levels
    side = _side(recipe, facts.side, machine)
    choices = [
        Choice("data.image_size", side, _why_side(facts, side, recipe)),
        *_common(recipe, why, side, train.slices, levels, machine),
    ]
    scored = sum(s.slices for name, s in facts.splits.items() if name.startswith(("val", "test")))
    return Plan(
        recipe,
        facts.root,
        facts.modality,
        tuple(choices),
        tuple(_remarks(facts)),
        "",
        train.slices,
        scored,
    )


def _check(facts: folder_facts.Slices) -> None:
    for name, (people, slices) in _FEWEST.items():
        if name not in facts.splits:
            some = facts.splits["train"].people
            raise errors.UserError(
                f"--in={facts.root}: no split '{name}' with {facts.modality}; thresholds are "
                f"chosen on healthy people outside train: move one in ten of its {some} people "
                f"there, {people} or more"
            )
        found = facts.splits[name]
        if found.people < people or found.slices < slices:
            raise errors.UserError(
                f"--in={facts.root}: split '{name}': found {found.slices} slices of "
                f"{found.people} people, accepted: at least {slices} slices of {people} people"
            )


def _recipe(machine: Machine) -> tuple[str, str]:
    if not machine.accelerators:
        return (
            SMALL,
            f"no accelerator: small networks, as configs/slices_cpu.py, on {_cores(machine)}",
        )
    gib = machine.accelerator_gib
    if gib >= _PAPER_GIB:
        return PAPER, f"{machine.kind} with {gib:.0f} GiB: the paper's networks need one of 24 GB"
    return LIGHT, f"{machine.kind} with {gib:.0f} GiB: too little for the paper's networks (24 GB)"


def _cores(machine: Machine) -> str:
    return f"{machine.cores} core{'s' if machine.cores > 1 else ''}"


def _side(recipe: str, native: int, machine: Machine) -> int:
    if recipe == SMALL:
        # A training of configs/slices_cpu.py, of 128 px, held 2.5 GiB.
        sides = _SIDES if machine.memory_gib >= 4 else _SIDES[1:]
        return next((side for side in sides if side <= native), sides[-1])
    return max(_SIDES[-1], min(_LARGEST, native // _STEP * _STEP))


def _why_side(facts: folder_facts.Slices, side: int, recipe: str) -> str:
    height, width = facts.sizes[0]
    text = f"px; the files have {height} x {width}"
    if side > facts.side:
        return f"{text}, which are enlarged: the networks need {side}"
    if side < facts.side:
        text += ", made smaller: " + (
            "twice the side is four times the work"
            if recipe == SMALL
            else f"{_STEP} must divide it"
        )
    return text


def _common(
    recipe: str, why: str, side: int, slices: int, levels: int, machine: Machine
) -> list[Choice]:
    """What does not depend on where the slices come from."""
    made = _small(side, slices) if recipe == SMALL else _published(recipe, slices, machine)
    threads = max(1, min(4, machine.cores))
    made.append(Choice("data.num_threads", threads, f"that read slices, of {_cores(machine)}"))
    if levels > 8:
        text = f"{levels} slice numbers: the mean image is one of every four"
        made.append(Choice("eval.mean_image_band", 4, text))
    return [Choice("recipe", recipe, why), *made]


def _small(side: int, slices: int) -> list[Choice]:
    """Of configs/slices_cpu.py at 128 px, and of configs/models/ixi_t1.py below."""
    first, second, source = (
        (1500, 1600, "slices_cpu.py") if side >= _SIDES[0] else (1200, 1500, "models/ixi_t1.py")
    )
    batch, groups = min(16, slices // 2), min(48, slices // 4)
    why = "what the recipe was tuned at" if batch == 16 else "half of all slices; 16 with more"
    return [
        Choice("autoencoder.train.batch_size", 6, "slices a step, squares of which it sees"),
        Choice("autoencoder.train.steps", first, f"as configs/{source}"),
        Choice("atlas.groups", groups, "kinds of slices that the mask head compares with"),
        Choice("train.batch_size", batch, f"slices a step, {why}"),
        Choice("train.steps", second, f"as configs/{source}"),
        Choice("autoencoder.optim.warmup_epochs", _warmup(0.3, first, 6, slices), _WARMUP),
        Choice("optim.warmup_epochs", _warmup(1.0, second, batch, slices), _WARMUP),
        Choice("train.ema_decay", 0.997, "an average of some 300 steps: steadier maps"),
        Choice("log.every_steps", 20, "steps between two lines of metrics.jsonl"),
        Choice("log.validate_every_steps", 400, "steps; the best checkpoint is chosen there"),
        Choice("checkpoint.every_steps", 200, "steps; and by the clock, below"),
        Choice("checkpoint.every_minutes", 5.0, "what a killed run may lose"),
    ]


def _warmup(most: float, steps: int, batch: int, slices: int) -> float:
    """Epochs of the recipe, or those of a tenth of the steps: an epoch may be longer than all."""
    return round(min(most, _WARMUP_SHARE * steps * batch / slices), 4)


def _published(recipe: str, slices: int, machine: Machine) -> list[Choice]:
    count = machine.accelerators
    batch = _batch(96 if recipe == PAPER else 32, slices, count)
    published = "as published" if batch == 96 else "of published 96"
    return [
        Choice("train.batch_size", batch, f"slices a step over {count} device(s), {published}"),
        Choice(
            "autoencoder.train.batch_size",
            _batch(12, slices, count),
            "slices a step, published: 12",
        ),
        Choice("eval.batch_size", _batch(16, 2 * 16, count), "slices scored at a time"),
    ]


def _batch(most: int, slices: int, devices: int) -> int:
    """A batch that the devices divide, of no more than half of the slices."""
    return max(devices, min(most, slices // 2) // devices * devices)


def _remarks(facts: folder_facts.Slices) -> list[str]:
    lines = [f"{name}: {s.slices} slices of {s.people} people" for name, s in facts.splits.items()]
    height, width = facts.sizes[0]
    if height != width:
        lines.append(
            f"not square ({height} x {width} px): padded with air to {facts.side} px, never "
            "stretched"
        )
    if len(facts.sizes) > 1:
        sides = sorted(max(size) for size in facts.sizes)
        lines.append(
            f"{len(facts.sizes)} sizes, sides of {sides[0]} to {sides[-1]} px: each is resized to "
            "the same square, so that a pixel may not be as many mm everywhere"
        )
    if len(facts.modalities) > 1:
        others = [kind for kind in facts.modalities if kind != facts.modality]
        lines.append(f"other contrasts there: {', '.join(others)} (--modality=)")
    lines.append(
        f"{facts.bits}-bit files; the brightest hundredth of a brain starts at "
        f"{100 * facts.level:.0f} % of their range"
    )
    if "test" not in facts.splits:
        lines.append("no test: the run trains and calibrates, and has no figures against lesions")
    if not facts.prepared:
        lines.append(
            "no dataset.json: slices are scored, and whole scans cannot be (madad-jax prepare "
            "writes one)"
        )
    return [*lines, *facts.notes]


def _for_scans(facts: folder_facts.Scans, machine: Machine) -> Plan:
    if facts.count < _FEWEST_SCANS:
        raise errors.UserError(
            f"--in={facts.root}: found {facts.count} scans of {facts.modality}, accepted: at "
            f"least {_FEWEST_SCANS}"
        )
    recipe, why = _recipe(machine)
    thick = max(facts.voxel_mm) if facts.voxel_mm else 1.0
    step = max(_PREPARED["step"] if recipe == SMALL else 1, round(thick))
    side, view = (_PREPARED["side"], _PREPARED["view"]) if recipe == SMALL else (_LARGEST, 256)
    root = f"data/{facts.root.rstrip('/').rpartition('/')[2]}"
    # Two people for thresholds at least, whatever the count.
    few = facts.count < 20
    train = round(facts.count * (0.6 if few else 0.8))
    scored = facts.count - train
    slices = max(1, _SLICES_A_SCAN * _PREPARED["step"] // step)
    text = f"px of {view / side:g} mm"
    words = [
        "madad-jax prepare --cohort=folder --cohort_file=ours.yaml",
        f"--in={shlex.quote(facts.root)} --out={shlex.quote(root)} --modality={facts.modality}",
        f"--image_size={side} --field_of_view={view} --slice_step={step}",
        *(["--fractions=0.6,0.2,0.2"] if few else []),
    ]
    voxels = (
        "" if facts.voxel_mm is None else " of {:.1f} x {:.1f} x {:.1f} mm".format(*facts.voxel_mm)
    )
    remarks = (
        f"{facts.count} scans{voxels}; about {slices} slices each, {step} mm apart",
        "ours.yaml, if nobody has a lesion: "
        f"{{title: ours, healthy: true, images: {{{facts.modality}: '{facts.pattern}'}}}}",
    )
    choices = (
        Choice("data.image_size", side, text),
        *_common(recipe, why, side, train * slices, slices, machine),
    )
    return Plan(
        recipe,
        root,
        facts.modality,
        choices,
        remarks,
        " ".join(words),
        train * slices,
        scored * slices,
    )
