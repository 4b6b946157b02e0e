"""JSON as all commands write it."""

from __future__ import annotations

from ggprune.files.documents import to_text as to_json

__all__ = ["to_json"]
