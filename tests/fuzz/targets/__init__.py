"""All targets by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tests.fuzz.case import Target
from tests.fuzz.targets.companions import CompanionTarget
from tests.fuzz.targets.documents import (
    CodecTarget,
    ExpertScoresTarget,
    PlanTarget,
    ScoresTarget,
)
from tests.fuzz.targets.measured import BaseTarget, CacheTarget
from tests.fuzz.targets.models import ModelTarget, RulesTarget, ShardsTarget
from tests.fuzz.targets.texts import SamplesTarget, TasksTarget, TextsTarget

TARGETS: Mapping[str, Callable[[], Target]] = {
    "model": ModelTarget, "rules": RulesTarget, "shards": ShardsTarget,
    "companion": CompanionTarget, "plan": PlanTarget, "scores": ScoresTarget,
    "experts": ExpertScoresTarget, "codec": CodecTarget,
    "base": BaseTarget, "cache": CacheTarget, "tasks": TasksTarget, "samples": SamplesTarget,
    "texts": TextsTarget,
}  # fmt: skip
