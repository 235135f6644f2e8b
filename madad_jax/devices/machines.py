"""Machines as their vendors publish them, and the time that a compiled program would take there.

A plan on paper: FLOPs, bytes and collectives come from a program that the CPU compiler made for as
many fake devices, divided by published peaks. Nothing here has been measured on such a machine,
and JAX's ahead-of-time topologies, which compile for a TPU without one, need libtpu. Three times:

    compute     FLOPs / peak
    memory      bytes of every kernel / HBM bandwidth (an upper bound: a TPU fuses more)
    collective  bytes sent by ring algorithms / bandwidth of one axis of the torus, or of NVLink;
                across slices in three parts: inside, between (1 / chips of a slice), inside

The step takes the largest of them if all overlap and their sum if nothing does. Efficiency is
the compute time over that time.
"""

import collections
import dataclasses
import re

from madad_jax.core import errors
from madad_jax.devices import hlo_costs


@dataclasses.dataclass(frozen=True)
class Chip:
    """Published figures of one chip; FLOP/s and bytes/s in base units.

    `link` is what a chip sends along one axis of the torus in both directions (the published
    bidirectional bandwidth / 2 / axes), or through NVLink. `network` is its share of the data
    centre's network. `island` is how many chips the fast links join (0: the whole slice).
    """

    peak_bfloat16: float
    peak_float32: float  # at default matmul precision: one bfloat16 pass on TPU, TF32 on GPU
    peak_highest: float
    memory: float
    bandwidth: float
    link: float
    network: float
    source: str
    read: str
    island: int = 0
    cores: int = 1  # that the machine's name counts as one chip


# Peaks are of dense products. "highest" on a TPU is six bfloat16 passes, hence the / 6.
_TPU = "https://cloud.google.com/tpu/docs/"
CHIPS = {
    "v4": Chip(
        peak_bfloat16=275e12,
        peak_float32=275e12,
        peak_highest=275e12 / 6,
        memory=32.0 * 2**30,
        bandwidth=1200e9,
        link=100e9,
        network=6.25e9,
        source=f"{_TPU}v4 (network: as v5p, not published there)",
        read="2025",
        cores=2,
    ),
    "v5e": Chip(
        peak_bfloat16=197e12,
        peak_float32=197e12,
        peak_highest=197e12 / 6,
        memory=16e9,
        bandwidth=819e9,
        link=100e9,
        network=3.125e9,
        source=f"{_TPU}v5e (400 GB/s in two axes, 6.4 Tbit/s a pod of 256)",
        read="2026-11",
    ),
    "v5p": Chip(
        peak_bfloat16=459e12,
        peak_float32=459e12,
        peak_highest=459e12 / 6,
        memory=95e9,
        bandwidth=2765e9,
        link=200e9,
        network=6.25e9,
        source=f"{_TPU}v5p-training (1200 GB/s in three axes, 50 Gbit/s a chip)",
        read="2026-11",
        cores=2,
    ),
    "v6e": Chip(
        peak_bfloat16=918e12,
        peak_float32=918e12,
        peak_highest=918e12 / 6,
        memory=32e9,
        bandwidth=1600e9,
        link=200e9,
        network=12.5e9,
        source=f"{_TPU}v6e (800 GB/s in two axes, 25.6 Tbit/s a pod of 256)",
        read="2026-11",
    ),
    "h100": Chip(
        peak_bfloat16=989.4e12,
        peak_float32=494.7e12,
        peak_highest=66.9e12,
        memory=80e9,
        bandwidth=3350e9,
        link=450e9,
        network=50e9,
        source="NVIDIA H100 SXM data sheet, dense; network: 400 Gbit/s a GPU",
        read="2025",
        island=8,
    ),
}
MOST = 256  # devices that one process is asked to pretend


@dataclasses.dataclass(frozen=True)
class Topology:
    """`slices` groups of `size` chips; chips of one group talk over fast links."""

    name: str
    chip: Chip
    slices: int
    size: int

    @property
    def devices(self) -> int:
        """All chips."""
        return self.slices * self.size


def parse(name: str) -> Topology:
    """The machine `name`: chip and number as its vendor writes them (`v5e-256`, `v4-64`: 64 cores,
    32 chips; `h100-16`: two hosts of 8), and several slices as `4xv5e-64`.

    Raises:
      UserError: an unknown chip, a number that makes no chips, or more than 256 of them.
    """
    found = re.fullmatch(r"(?:(\d+)x)?([a-z]\w*)-(\d+)", name.lower())
    chip = CHIPS.get(found.group(2)) if found else None
    if chip is None:
        raise errors.UserError(
            f"--topology: found {name!r}; accepted: a chip of {', '.join(CHIPS)} and a number, as "
            "v5e-256, or several slices, as 4xv5e-64"
        )
    slices, size = int(found.group(1) or 1), int(found.group(3)) // chip.cores
    if chip.island and size > chip.island:
        if size % chip.island:
            raise errors.UserError(
                f"--topology: found {name!r}; more than {chip.island} of them must be a multiple"
            )
        slices, size = slices * size // chip.island, chip.island
    if not 1 <= slices * size <= MOST:
        raise errors.UserError(
            f"--topology: found {name!r}, which is {slices * size} chips; accepted: 1 to {MOST}, "
            "as many fake devices as one process compiles for"
        )
    return Topology(name, chip, slices, size)


@dataclasses.dataclass(frozen=True)
class Plan:
    """Seconds of one run of a program."""

    compute: float
    memory: float
    collective: float

    @property
    def shortest(self) -> float:
        """When all three overlap."""
        return max(self.compute, self.memory, self.collective)

    @property
    def longest(self) -> float:
        """When nothing overlaps."""
        return self.compute + self.memory + self.collective

    @property
    def bound(self) -> str:
        """What the program waits for."""
        times = dataclasses.asdict(self)
        return max(times, key=times.get)


def plan(program: hlo_costs.Program, topology: Topology, dtype: str, precision: str) -> Plan:
    """The times of a program on a machine.

    Args:
      program: costs on one device.
      topology: the machine.
      dtype: of the products, "float32" or "bfloat16".
      precision: of float32 products, `jax_default_matmul_precision`.
    """
    chip = topology.chip
    peak = chip.peak_bfloat16 if dtype == "bfloat16" else chip.peak_float32
    if dtype == "float32" and precision != "default":
        # "high" is three passes on a TPU, and what TF32 is on a GPU.
        high = chip.peak_float32 if chip.island else chip.peak_bfloat16 / 3
        peak = chip.peak_highest if precision == "highest" else high
    seconds = sum((c.times * _seconds(c, topology) for c in program.collectives), 0.0)
    return Plan(program.flops / peak, program.bytes / chip.bandwidth, seconds)


def _seconds(collective: hlo_costs.Collective, topology: Topology) -> float:
    """One run of a collective; devices are numbered slice by slice."""
    chip = topology.chip
    if topology.slices == 1:
        return collective.sent / chip.link
    spread = crossings(collective, topology.size)
    if spread == 1:
        return collective.sent / chip.link
    if collective.kind in ("collective-permute", "all-to-all"):
        return collective.sent / chip.network
    inside = max(collective.group_size // spread, 1)
    within = dataclasses.replace(collective, group_size=inside)
    between = dataclasses.replace(collective, group_size=spread)
    return within.sent / chip.link + between.sent / inside / chip.network


def crossings(collective: hlo_costs.Collective, size: int) -> int:
    """Over how many slices of `size` devices the widest group lies."""
    counts = [len(collections.Counter(d // size for d in group)) for group in collective.groups]
    return max(counts, default=1)
