"""JSON as all commands write it."""

from __future__ import annotations

import json
from typing import Any


def to_json(document: dict[str, Any]) -> str:
    """One JSON document; NaN and infinity are errors, not invalid JSON."""
    return json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
