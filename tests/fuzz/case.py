"""One input on its way through a target: what was reached, what was refused, what escaped.

Refused is what raises the project's own error; everything else that is raised escapes.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Protocol, TypeVar

from ggprune.errors import GGPruneError
from ggprune.files.printable import printable
from tests.fuzz.printable import text_fault

T = TypeVar("T")


class EscapeError(Exception):
    """Something that must not happen and raises nothing by itself; `kind` says what."""

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(detail or kind)
        self.kind = kind


class TooLongError(BaseException):
    """The time of an input is over. No `except Exception` may take it for something else."""


@dataclass(frozen=True)
class Escape:
    """What is reported: the same kind at the same line of the project is the same fault."""

    target: str
    step: str
    kind: str
    where: str
    seed: int
    detail: str

    @property
    def key(self) -> tuple[str, str, str]:
        return (self.target, self.kind, self.where or self.step)


class Case:
    """An input, and a folder for it that is empty at first."""

    def __init__(self, folder: Path, rng: Random) -> None:
        self.folder, self.rng = folder, rng
        self.step = "before the first step"
        self.n_refused = Counter[str]()
        self.n_passed = Counter[str]()
        self.files: set[Path] = set()  # that may be there at the end

    def write(self, name: str, data: bytes) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        self.files.add(path)
        return path

    def attempt(self, step: str, call: Callable[[], T]) -> T | None:
        """The result, None if the input was refused."""
        self.step = step
        try:
            result = call()
        except GGPruneError as e:
            self.n_refused[step] += 1
            self.text("error", printable(" ".join(str(e).split())))  # as all errors are shown
            return None
        self.n_passed[step] += 1
        return result

    def accepts(self, step: str, check: Callable[[], object]) -> bool:
        """As `attempt`, of what has no result."""
        return self.attempt(step, lambda: (check(),)) is not None

    def text(self, what: str, shown: str) -> None:
        """A text that the terminal gets."""
        if fault := text_fault(what, shown):
            raise EscapeError(f"{fault} in {what}", repr(shown[:300]))

    def check_left(self) -> None:
        left = {path for path in self.folder.rglob("*") if not path.is_dir()} - self.files
        if left:
            names = ", ".join(sorted(path.name for path in left))
            raise EscapeError("a file is left", names)


class Target(Protocol):
    """A reader, or several behind each other."""

    def make(self, rng: Random) -> bytes: ...

    def run(self, data: bytes, case: Case) -> None: ...


def place_of(error: BaseException) -> str:
    """The innermost line of the project that the error went through."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "/ggprune/" in f.filename]
    if not frames:
        return ""
    return f"{frames[-1].filename.rsplit('/ggprune/', 1)[1]}:{frames[-1].lineno}"
