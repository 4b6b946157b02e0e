"""Loaded by workers of a test: every task takes longer, so that something can happen meanwhile."""

from __future__ import annotations

import time

from ggprune.cluster.engine import MeasureEngine

right = MeasureEngine.answer


def answer(self: MeasureEngine, task: object) -> object:
    time.sleep(0.1)
    return right(self, task)


def dask_setup(worker: object) -> None:
    MeasureEngine.answer = answer  # type: ignore[method-assign,assignment]
