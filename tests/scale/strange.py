"""Loaded by workers of a test, whom an environment variable makes strange."""

from __future__ import annotations

import ctypes
import os
from itertools import count

from ggprune.cluster import engine
from ggprune.metrics.chunks import Chunk
from ggprune.runtime.compute import Compute
from ggprune.runtime.session import Session
from ggprune.scoring.measure import Measurer, Probe

params, probe, numbers = Session._params, Measurer.probe, count()


def without_flash(self: Session, compute: Compute, *, tapped: bool) -> ctypes.Structure:
    made = params(self, compute, tapped=tapped)
    made.flash_attn_type = 0
    return made


def unsteady(self: Measurer, chunk: Chunk) -> Probe:
    found = probe(self, chunk)
    return Probe(found.whole + next(numbers), found.without)


def dask_setup(worker: object) -> None:
    how = os.environ.get("GGPRUNE_TEST_STRANGE", "")
    if how == "commit":
        engine.build_commit = lambda: "fffffff"  # type: ignore[attr-defined]
    if how == "version":
        engine.__version__ = "0.0.1"  # type: ignore[attr-defined]
    if how == "flash":
        Session._params = without_flash  # type: ignore[method-assign]
    if how == "unsteady":
        Measurer.probe = unsteady  # type: ignore[method-assign]
