import json

import pytest

from benchmarks import costs

STORED = json.loads(costs.RECORD.read_text())
SMALL = "demo, image to map, batch 24"


@pytest.fixture
def same_compiler():
    if STORED["environment"] != costs.environment():
        pytest.skip(f"recorded with {STORED['environment']}, here is {costs.environment()}")


def check(name):
    found = dict(costs.measured(name))[name]
    dearer, _ = costs.compare(name, STORED["programs"][name], found)
    assert not dearer, "\n".join(dearer)


def test_the_demo_infers_at_the_recorded_cost(same_compiler):
    check(SMALL)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in costs.PROGRAMS if name != SMALL])
def test_every_program_costs_what_is_recorded(name, same_compiler):
    check(name)


def test_every_program_is_recorded():
    assert set(STORED["programs"]) == set(costs.PROGRAMS)
    for figures in STORED["programs"].values():
        assert set(figures) == set(costs.TOLERANCES) and min(figures.values()) > 0


def test_a_dearer_program_is_told_with_name_recorded_and_found():
    recorded = {"flops": 1e9, "bytes": 5e8, "memory": 1e6}
    assert costs.compare("x", recorded, recorded) == ([], [])
    dearer, cheaper = costs.compare("x", recorded, recorded | {"flops": 1.01e9, "memory": 0.9e6})
    assert dearer == ["x: flops recorded 1e+09, found 1.01e+09 (+1.00 %), allowed +0.1 %"]
    assert cheaper == ["x: memory recorded 1e+06, found 900000 (-10.00 %); --record keeps it"]
    slightly = recorded | {"bytes": 5.05e8, "memory": 1.01e6}
    assert costs.compare("x", recorded, slightly) == ([], [])
