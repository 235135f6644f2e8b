"""Digests of what JSON holds."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def canonical(value: Any) -> Any:
    """`value` as it comes back from JSON (tuples become lists, keys strings)."""
    return json.loads(json.dumps(value))


def json_digest(value: Mapping[str, Any] | Any) -> str:
    """sha256 of the canonical JSON text (sorted keys, no spaces) of `value`."""
    text = json.dumps(canonical(value), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
