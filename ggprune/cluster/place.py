"""What a worker process is told when it starts, by its environment."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from ggprune.errors import UsageError

VARIABLE = "GGPRUNE_WORKER"


@dataclass(frozen=True, kw_only=True)
class Place:
    """Of one worker process. All of it has defaults, so that a plain `dask worker` has one, too."""

    threads: int | None = None  # of the CPU; None: the physical cores
    contexts: int = 1  # tasks at once
    keep_bytes: int | None = None  # of chunks in memory; None: a quarter of what is free
    path_map: tuple[tuple[str, str], ...] = ()  # OLD, NEW: how paths begin at the coordinator, here
    cpus: tuple[int, ...] = ()  # that it is bound to; none: all
    log: str = ""  # file for what is written to stderr
    rpc: tuple[str, ...] = ()  # servers of llama.cpp that it computes on

    def environ(self) -> dict[str, str]:
        return {VARIABLE: json.dumps(asdict(self))}

    def path(self, path: str) -> Path:
        """A file of the coordinator's, as it is called here."""
        for old, new in self.path_map:
            if path.startswith(old):
                return Path(new + path[len(old) :])
        return Path(path)


def this_place(environ: Mapping[str, str] = os.environ) -> Place:
    told = json.loads(environ.get(VARIABLE, "{}"))
    pairs = tuple((old, new) for old, new in told.pop("path_map", ()))
    cpus, rpc = tuple(told.pop("cpus", ())), tuple(told.pop("rpc", ()))
    return Place(path_map=pairs, cpus=cpus, rpc=rpc, **told)


def parse_path_map(texts: list[str]) -> tuple[tuple[str, str], ...]:
    """`OLD=NEW`. Raises UsageError for anything else."""
    pairs = []
    for text in texts:
        old, equals, new = text.partition("=")
        if not (old and equals and new):
            raise UsageError(f"--path-map {text}: write OLD=NEW, how paths begin there and here")
        pairs.append((old, new))
    return tuple(pairs)
