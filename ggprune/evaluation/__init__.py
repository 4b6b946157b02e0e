"""Perplexity and KL divergence, as llama-perplexity reports them."""

from ggprune.evaluation.perplexity import Evaluation, evaluate
from ggprune.evaluation.statistics import Distribution, Divergence

__all__ = ["Distribution", "Divergence", "Evaluation", "evaluate"]
