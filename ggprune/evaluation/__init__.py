"""How good models are: what llama-perplexity reports, lm-eval's tasks, what they write."""

from ggprune.evaluation.perplexity import Evaluation, SaveLogits, evaluate
from ggprune.evaluation.statistics import Distribution, Divergence

__all__ = ["Distribution", "Divergence", "Evaluation", "SaveLogits", "evaluate"]
