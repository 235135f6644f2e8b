"""YAML of strangers: plain values, within bounds, one line for whatever is wrong."""

from typing import Any

import yaml
from etils import epath

from madad_jax.core import atomic_files, errors, messages

_MOST_BYTES = 1 << 18  # Tables have a kilobyte or two.


class _PlainLoader(yaml.SafeLoader):
    """Safe, so that a table runs no code; and without aliases, which can stand for any amount."""

    def compose_node(self, parent, index):
        if self.check_event(yaml.events.AliasEvent):
            event = self.peek_event()
            raise yaml.composer.ComposerError(
                None, None, "aliases (*) are not read", event.start_mark
            )
        return super().compose_node(parent, index)


def read(path: epath.PathLike) -> Any:
    """The value that a file holds.

    Raises:
      UserError: it cannot be read, is no YAML, holds aliases, or is past the bounds.
    """
    path = epath.Path(path)
    content = atomic_files.read_bytes(path)
    if len(content) > _MOST_BYTES:
        raise errors.UserError(
            f"'{path}' has {len(content)} bytes; accepted: YAML of at most {_MOST_BYTES}"
        )
    try:
        return yaml.load(content, _PlainLoader)
    except RecursionError as error:
        raise errors.UserError(f"'{path}' is no YAML: nested too deeply") from error
    # Dates, numbers and keys that the format allows and Python does not: ValueError, TypeError.
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, OverflowError) as error:
        text = messages.shorten(" ".join(str(error).split()), 200)
        raise errors.UserError(f"'{path}' is no YAML: {text}") from error
