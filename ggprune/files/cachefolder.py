"""The user's cache folder. Whatever lies there can be made again: deleting it is safe."""

from __future__ import annotations

import os
from pathlib import Path


def user_cache() -> Path | None:
    """`$XDG_CACHE_HOME/ggprune`, or `~/.cache/ggprune`; None where there is no home folder."""
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "ggprune"
    except RuntimeError:  # no HOME, and no such user
        return None
