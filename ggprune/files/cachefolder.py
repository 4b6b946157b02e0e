"""The user's cache folder. Whatever lies there can be made again: deleting it is safe."""

from __future__ import annotations

import os
from pathlib import Path

BASES = ("XDG_CACHE_HOME", "LOCALAPPDATA")


def user_cache() -> Path | None:
    """`ggprune` in `$XDG_CACHE_HOME`, in Windows' `%LOCALAPPDATA%`, or in `~/.cache`.

    None where there is no home folder.
    """
    base = next(filter(None, map(os.environ.get, BASES)), None)
    try:
        return (Path(base) if base else Path.home() / ".cache") / "ggprune"
    except RuntimeError:  # no HOME, and no such user
        return None
