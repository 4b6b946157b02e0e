"""Files that a target needs for all of its inputs."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from pathlib import Path

from ggprune.model.model import Model, open_model
from tests.fuzz.gguf_parts import Parts


def lasting_folder() -> Path:
    """A folder that stays until the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def open_parts(parts: Parts) -> Model:
    path = lasting_folder() / "model.gguf"
    path.write_bytes(parts.pack())
    return open_model(path)
