"""The commands whose outputs are looked at, and when the content of an output is right."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ggprune.errors import GGPruneError
from ggprune.model.model import open_model
from ggprune.scoring.ranking import read_ranking

FIXTURES = Path(__file__).parent.parent.parent / "fixtures"
TINY = str(FIXTURES / "tiny.gguf")
SHORT = ("--chunks", "2", "-c", "64", "-t", "1")


@dataclass(frozen=True)
class Group:
    """Outputs that appear together. Shards tell when they do not belong together."""

    names: tuple[str, ...]
    are_shards: bool = False


@dataclass(frozen=True)
class Job:
    """A command line, in which `{out}` stands for the folder of its outputs."""

    line: tuple[str, ...]
    groups: tuple[Group, ...]

    @property
    def outputs(self) -> tuple[str, ...]:
        return tuple(name for group in self.groups for name in group.names)

    def arguments(self, folder: Path, layer: int) -> list[str]:
        """`layer` is the one that is dropped, if the job says so."""
        return [part.format(out=folder, layer=layer) for part in (*self.line, "--force")]


MODEL = Group(("o.gguf",))
SHARDS = Group(tuple(f"o-{i:05}-of-00003.gguf" for i in (1, 2, 3)), are_shards=True)
PRUNE = ("--prune-layers", "{layer}", TINY, "{out}/o.gguf")
QUICK = ("--no-verify",)
JOBS = {
    "prune": Job(("prune", *PRUNE, *QUICK), (MODEL,)),
    "shards": Job(
        ("prune", *PRUNE, *QUICK, "--split-max-tensors", "30", "--save-plan", "{out}/plan.json"),
        (SHARDS, Group(("plan.json",))),
    ),
    "prune --type": Job(("prune", *PRUNE, "--type", "Q4_K_M", "-t", "1"), (MODEL,)),
    "quantize": Job(("quantize", TINY, "{out}/o.gguf", "Q4_K_M", "-t", "1"), (MODEL,)),
    "rank -o": Job(
        ("rank", TINY, *SHORT, "-o", "{out}/s.json", "--plot", "{out}/s.png"),
        (Group(("s.json",)), Group(("s.png",))),
    ),
    "heal": Job(
        ("heal", *PRUNE, *QUICK, "--chunks", "24", "-c", "64", "-t", "1", "--lora", "{out}/a.gguf",
         "-f", str(FIXTURES / "calibration.txt")),
        (Group(("o.gguf", "a.gguf")),),
    ),
    "auto --report": Job(
        ("auto", TINY, "{out}/o.gguf", "--drop", "1", *SHORT, "--type", "Q4_K_M", "-p", "8",
         "-n", "2", "-r", "1", "--report", "{out}/r.json"),
        (MODEL, Group(("r.json",))),
    ),
}  # fmt: skip


def identity(path: Path) -> object:
    """What the content of an output says, without what differs from run to run.

    Raises GGPruneError, or ValueError, for what is no such output.
    """
    return _IDENTITIES[path.suffix](path)


def _of_json(path: Path) -> object:
    document = json.loads(path.read_text("utf-8"))
    if "layers" in document:
        return read_ranking(path).order
    return sorted(document)


def _of_picture(path: Path) -> object:
    if not path.read_bytes().endswith(b"IEND\xaeB`\x82"):
        raise ValueError("not a whole picture")
    return "picture"


def _of_model(path: Path) -> object:
    return path.read_bytes()


_IDENTITIES: dict[str, Callable[[Path], object]] = {
    ".gguf": _of_model, ".json": _of_json, ".png": _of_picture,
}  # fmt: skip


def refused(folder: Path, names: tuple[str, ...]) -> bool:
    """Is no model opened from these shards, with the reason?"""
    try:
        open_model(next(folder / name for name in names if (folder / name).exists()))
    except GGPruneError as e:
        return "a run that replaced the shards was ended" in str(e) or "are missing" in str(e)
    return False
