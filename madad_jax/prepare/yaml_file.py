"""YAML of strangers: plain values, within bounds, one line for whatever is wrong."""

from typing import Any

import yaml
from etils import epath

from madad_jax.core import atomic_files, errors, messages

_MOST_BYTES = 1 << 18  # Tables have a kilobyte or two.
_MOST_NODES = 10_000  # Once every alias is written out.
_MERGE = "tag:yaml.org,2002:merge"


class _PlainLoader(yaml.SafeLoader):
    """Safe, so that a table runs no code; with aliases within a bound, and no key that stands
    twice, of which the first would be lost."""

    def get_single_node(self):
        node = super().get_single_node()
        if node is not None:
            _count(node, {})
        return node


def _count(node: yaml.Node, counts: dict[int, int]) -> int:
    """Nodes of a tree whose aliases are written out. Raises YAMLError past the bounds."""
    if id(node) in counts:
        if not counts[id(node)]:
            raise _error(node, "an alias (*) stands within what it is an alias of")
        return counts[id(node)]
    counts[id(node)] = 0
    total, keys = 1, set()
    for child in node.value if isinstance(node, yaml.CollectionNode) else ():
        for part in child if isinstance(child, tuple) else (child,):
            total += _count(part, counts)
        if isinstance(child, tuple) and isinstance(child[0], yaml.ScalarNode):
            key = child[0].tag, child[0].value
            if key in keys and key[0] != _MERGE:
                raise _error(child[0], f"the key '{messages.shorten(key[1])}' stands twice")
            keys.add(key)
    if total > _MOST_NODES:
        raise _error(node, f"more than {_MOST_NODES} values, aliases (*) written out")
    counts[id(node)] = total
    return total


def _error(node: yaml.Node, said: str) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, said, node.start_mark)


def read(path: epath.PathLike) -> Any:
    """The value that a file holds.

    Raises:
      UserError: it cannot be read, is no YAML, has a key twice, or is past the bounds.
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
