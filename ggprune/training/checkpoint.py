"""Where a killed run goes on: weights, optimizer, position. Bit for bit the run it would have been.

Of a run that goes on with other settings nothing is taken over: its folder belongs to the settings.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch

from ggprune.files.outputs import PendingFile, disk_errors
from ggprune.training.loop import Log, State, Training
from ggprune.training.options import Point, Run


@dataclass
class Checkpoints:
    """A file for the run that is under way, and one for each that is finished."""

    folder: Path
    seed: int
    is_writer: bool  # one of several processes
    log: Log = field(default_factory=lambda: Log(None, is_writer=False))

    @property
    def path(self) -> Path:
        return self.folder / f"run-{self.seed}.pt"

    @property
    def finished(self) -> Path:
        return self.folder / f"finished-{self.seed}.pt"

    def save(self, training: Training, points: list[Point], best: State) -> None:
        """Replaces the one before. Raises OutputError if the disk is full."""
        self._write(self.path, {
            "done": training.done, "points": points, "best": best, "state": training.state(),
            "optimizer": training.optimizer.state_dict(),
            "scheduler": training.scheduler.state_dict(),
            "random": torch.get_rng_state(),
        })  # fmt: skip

    def restore(self, training: Training) -> tuple[list[Point], State] | None:
        """Put the run back where it was; None if it has not begun."""
        if not self.path.exists():
            self.log.rewind(self.seed, -1)
            return None
        kept = torch.load(self.path, map_location="cpu", weights_only=False)
        training.restore(kept["state"])
        training.optimizer.load_state_dict(kept["optimizer"])
        training.scheduler.load_state_dict(kept["scheduler"])
        torch.set_rng_state(kept["random"])
        training.done = kept["done"]
        self.log.rewind(self.seed, training.done)
        return kept["points"], kept["best"]

    def finish(self, run: Run, best: State) -> None:
        """Keep what the run gives, and no more than that."""
        self._write(self.finished, {"run": run, "best": best})
        if self.is_writer:
            self.path.unlink(missing_ok=True)

    def result(self) -> tuple[Run, State] | None:
        """Of a run that is finished."""
        if not self.finished.exists():
            return None
        kept = torch.load(self.finished, map_location="cpu", weights_only=False)
        return kept["run"], kept["best"]

    def _write(self, path: Path, values: dict[str, object]) -> None:
        if not self.is_writer:
            return
        with disk_errors(path), PendingFile(path) as pending:
            torch.save(values, pending.path)
            pending.commit(force=True)
