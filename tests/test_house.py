"""The layout keeps its bars; `python -m benchmarks.house` prints all figures."""

import pytest

from benchmarks import house


def test_the_root_holds_rooms():
    assert house.root_entries() <= 23
    flat = {path.name for path in house.files() if house.room(path) == ""}
    assert flat == {"__init__.py", "__main__.py", "main.py"}


def test_no_room_is_the_house():
    lines = house.room_lines()
    shares = {room: count / sum(lines.values()) for room, count in lines.items()}
    assert {room: share for room, share in shares.items() if share > 0.12} == {}


def test_config_keys_are_read_in_assembly():
    assert house.config_readers() == {}


def test_configs_are_typed():
    assert house.untyped_configs() == []


def test_file_names_stand_for_one_thing():
    assert len(house.repeated_names()) <= 6, house.repeated_names()


def test_tricks_are_explained():
    assert house.comment_share() >= 3.0


@pytest.mark.parametrize(
    ("source", "reads"),
    [
        ("size = config.data.image_size", ["config.data"]),
        ("def f(run):\n    return run.config.seed", ["config.seed"]),
        ('steps = config["train"]', ["config['train']"]),
        ("text = config.to_json()", []),
        ("parts = assemble(config)", []),
    ],
)
def test_a_key_that_is_read_is_seen(source, reads):
    assert house.key_reads(source) == reads


def test_comments_are_lines_with_a_comment():
    assert house.comments('"""# no"""\nx = 1  # why\n# and\n# so\n') == 3
