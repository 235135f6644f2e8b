"""Plans on paper: names, and times computed by hand."""

import dataclasses

import pytest

from madad_jax.core import errors
from madad_jax.devices import hlo_costs, machines


def collective(kind, size, groups, times=1, scattered=0.0):
    return hlo_costs.Collective(kind, (), size, len(groups[0]), groups, times, scattered, "")


@pytest.mark.parametrize(
    ("name", "slices", "size", "devices"),
    [
        ("v5e-256", 1, 256, 256),
        ("v4-64", 1, 32, 32),  # named by cores, two a chip
        ("v5p-8", 1, 4, 4),
        ("4xv6e-16", 4, 16, 64),
        ("h100-8", 1, 8, 8),
        ("h100-4", 1, 4, 4),
        ("h100-32", 4, 8, 32),  # hosts of eight
    ],
)
def test_names(name, slices, size, devices):
    found = machines.parse(name)
    assert (found.slices, found.size, found.devices) == (slices, size, devices)


@pytest.mark.parametrize("name", ["v5e", "v7x-8", "v5e-0", "v5e-512", "2xv5e-256", "h100-12", ""])
def test_names_that_are_none(name):
    with pytest.raises(errors.UserError, match="--topology: found"):
        machines.parse(name)


def test_every_chip_says_where_its_figures_come_from():
    for chip in machines.CHIPS.values():
        assert chip.source and chip.read and chip.peak_bfloat16 >= chip.peak_float32
        assert chip.memory > 1e10 and chip.bandwidth > chip.link > chip.network


def test_three_times_and_what_binds():
    v5e = machines.parse("v5e-8")
    ring = collective("all-reduce", 8e8, (tuple(range(8)),), times=2)
    found = machines.plan(hlo_costs.Program(197e9, 819e6, (ring,), 0), v5e, "bfloat16", "default")
    assert found.compute == pytest.approx(1e-3) and found.memory == pytest.approx(1e-3)
    assert found.collective == pytest.approx(2 * 2 * 7 / 8 * 8e8 / 100e9)
    assert found.bound == "collective" and found.shortest == found.collective
    assert found.longest == pytest.approx(2e-3 + found.collective)


@pytest.mark.parametrize(
    ("machine", "precision", "slower"),
    [("v5e-8", "default", 1), ("v5e-8", "high", 3), ("v5e-8", "highest", 6), ("h100-8", "high", 2)],
)
def test_float32_products(machine, precision, slower):
    machine = machines.parse(machine)
    program = hlo_costs.Program(1e12, 0.0, (), 0)
    fast = machines.plan(program, machine, "bfloat16", "default").compute
    found = machines.plan(program, machine, "float32", precision).compute
    assert found == pytest.approx(slower * fast)


def test_between_slices_only_a_share_crosses():
    """Two slices of four: 3/4 inside over fast links, then a quarter of the array between."""
    machine = machines.parse("2xv5e-4")
    everyone = collective("all-reduce", 4e8, (tuple(range(8)),))
    inside = collective("all-reduce", 4e8, ((0, 1, 2, 3), (4, 5, 6, 7)))
    pairs = collective("all-reduce", 4e8, tuple((i, i + 4) for i in range(4)))

    def seconds(c):
        return machines.plan(
            hlo_costs.Program(0.0, 0.0, (c,), 0), machine, "bfloat16", "default"
        ).collective

    within = 2 * 4e8 * 3 / 4 / 100e9
    assert seconds(inside) == pytest.approx(within)
    assert seconds(pairs) == pytest.approx(4e8 / 3.125e9)
    assert seconds(everyone) == pytest.approx(within + 1e8 / 3.125e9)
    scattered = dataclasses.replace(inside, scattered=4e8)
    assert seconds(scattered) == pytest.approx(within / 2)
