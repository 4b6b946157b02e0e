"""One of several training processes, which accelerate's launcher runs with a file."""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path

from ggprune.errors import GGPruneError
from ggprune.training.options import FAILED
from ggprune.training.worker import run


def main(file: Path) -> None:
    task, progress, terminal = pickle.loads(file.read_bytes())
    if os.environ.get("RANK", "0") == "0" and terminal.exists():
        sys.stderr = terminal.open("w", buffering=1, encoding="utf-8", errors="backslashreplace")
    try:
        run(task, progress)
    except GGPruneError as e:
        error = file.parent / f"{FAILED}-{os.getpid()}"
        error.write_bytes(pickle.dumps(e))
        error.replace(file.parent / FAILED)
        sys.exit(1)


main(Path(sys.argv[1]))
