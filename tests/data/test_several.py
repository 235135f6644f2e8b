import dataclasses

import numpy as np

from madad_jax.data.sources import record as record_lib
from madad_jax.data.sources import several


@dataclasses.dataclass
class Numbers:
    """Slices whose pixel is their number."""

    first: int
    count: int

    def __post_init__(self):
        self.records = [record_lib.Record(f"s{i}", "person", i, "T1") for i in range(self.count)]

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return {"image": np.full((2, 2, 1), self.first + index)}

    def describe(self):
        return f"{self.count} numbers"

    def fingerprint(self):
        return str(self.first)


def test_sources_follow_one_another():
    found = several.Several([Numbers(10, 3), Numbers(20, 1), Numbers(30, 2)])
    assert isinstance(found, record_lib.Source)
    assert [int(found[i]["image"][0, 0, 0]) for i in range(len(found))] == [10, 11, 12, 20, 30, 31]
    assert [r.id for r in found.records] == ["1-s0", "1-s1", "1-s2", "2-s0", "3-s0", "3-s1"]
    assert {r.subject for r in found.records} == {"person"}
    assert found.describe() == "3 numbers and 1 numbers and 2 numbers"
    assert found.fingerprint() != several.Several([Numbers(10, 3), Numbers(20, 1)]).fingerprint()
