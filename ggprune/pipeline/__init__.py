"""The jobs that join the packages: each reads from top to bottom as what it does."""

from ggprune.pipeline.auto import auto, choose_first
from ggprune.pipeline.files import OutputFiles
from ggprune.pipeline.job import AS_INPUT, Job, planned, write
from ggprune.pipeline.options import AutoOptions
from ggprune.pipeline.result import AutoResult, read_report

__all__ = [
    "AS_INPUT", "AutoOptions", "AutoResult", "Job", "OutputFiles", "auto", "choose_first",
    "planned", "read_report", "write",
]  # fmt: skip
