"""Which preset made a result, and what was changed since.

Paper and official code differ, so a result says whose options made it. The config carries what its
preset says (`preset_values`, "key=value" words); whatever has another value is a change.
"""

from ml_collections import config_dict


def list_changes(config: config_dict.ConfigDict) -> list[str]:
    """Keys of the preset that have another value, as "optim.lr=0.002 (0.0005)"."""
    found = []
    for word in config.preset_values:
        key, _, said = word.partition("=")
        value = config
        for part in key.split("."):
            value = value[part]
        # A config read from JSON has lists where there were tuples.
        value = tuple(value) if isinstance(value, list) else value
        if repr(value) != said:
            found.append(f"{key}={value!r} ({said})")
    return found


def label(config: config_dict.ConfigDict) -> str:
    """The preset's name, with "changed" where it is not quite that."""
    return f"{config.preset}, changed" if list_changes(config) else config.preset
