"""Models with random weights and the exact shapes of well-known ones, to measure speed with."""

from ggprune.pipeline.synth.shapes import Shape, find_shape, known_shapes
from ggprune.pipeline.synth.tensors import count_parameters, depth_profile, make_tensors
from ggprune.pipeline.synth.write import Blueprint, make_blueprint, synthesize

__all__ = [
    "Blueprint", "Shape", "count_parameters", "depth_profile", "find_shape", "known_shapes",
    "make_blueprint", "make_tensors", "synthesize",
]  # fmt: skip
