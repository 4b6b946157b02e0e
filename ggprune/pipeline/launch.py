"""Starts training: in a child process, in several, or in this one as part of a launch of several.

Nothing here imports torch; the extra is looked for before any work.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import cast

from ggprune.errors import GGPruneError, LlamaError, MissingExtraError, UsageError
from ggprune.files.passing import passing_folder
from ggprune.model.model import Model
from ggprune.progress import SILENT, Progress
from ggprune.runtime.isolate import isolated
from ggprune.training.memory import Outlook
from ggprune.training.options import FAILED, Device, Task, Trained, TrainOptions

EXTRA = ("torch", "transformers", "peft", "accelerate")


def check_extra() -> None:
    """Raises MissingExtraError that names the command."""
    missing = [name for name in EXTRA if find_spec(name) is None]
    if missing:
        raise MissingExtraError(f"this needs {', '.join(missing)}: pip install 'ggprune[train]'")


def look(model: Model, keep: Sequence[int], options: TrainOptions) -> Outlook:
    """What a training process would find. Raises ArchitectureError for an unknown architecture."""
    return cast(Outlook, isolated(by_torch, "preflight", "look", model, keep, options))


def by_torch(module: str, function: str, *args: object) -> object:
    """Call a function of ggprune.training in a process that may have torch in it."""
    return getattr(import_module(f"ggprune.training.{module}"), function)(*args)


def is_follower() -> bool:
    """Is this one of several processes that a launcher started, and not the first?"""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and int(os.environ.get("RANK", "0")) > 0


def is_launched() -> bool:
    """Has a launcher started several processes, of which this is one?"""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def carry_out(task: Task, progress: Progress = SILENT) -> Trained:
    """Train. Raises what the training process raises."""
    if is_launched():
        if task.options.n_process > 1:
            raise UsageError("--num-processes: a launcher has started several processes already")
        by_torch("worker", "lead", task, progress)
    elif task.options.n_process > 1:
        _launch(task, progress)
    else:
        isolated(by_torch, "worker", "run", task, progress)
    return cast(Trained, pickle.loads(task.result.read_bytes()))


def follow(device: Device) -> None:
    """As another one of several processes: wait to be told, then train."""
    by_torch("worker", "follow", device)


def _launch(task: Task, progress: Progress) -> None:
    """accelerate's launcher starts `python -m ggprune.training FILE` so many times."""
    with passing_folder() as folder:
        file = folder / "task"
        terminal = Path(f"/proc/{os.getpid()}/fd/2")  # the launcher closes what it inherits
        file.write_bytes(pickle.dumps((task, progress, terminal)))
        command = [
            sys.executable, "-m", "accelerate.commands.launch", "--num_processes",
            str(task.options.n_process), "--num_machines", "1", "--mixed_precision", "no",
            "--dynamo_backend", "no", *(["--cpu"] if task.options.device is Device.CPU else []),
            "-m", "ggprune.training", str(file),
        ]  # fmt: skip
        said = folder / "stderr"
        with said.open("wb") as log:
            child = subprocess.run(command, stdout=log, stderr=log, check=False)
        error = folder / FAILED
        if error.exists():
            raise cast(GGPruneError, pickle.loads(error.read_bytes()))
        if child.returncode != 0:
            lines = said.read_text("utf-8", "replace").splitlines()
            last = next((line for line in reversed(lines) if "Error" in line), "")
            raise LlamaError(f"a training process ended with code {child.returncode}: {last}")
