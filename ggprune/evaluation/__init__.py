"""How good models are: what llama-perplexity reports, lm-eval's tasks, what they write."""

from ggprune.evaluation.perplexity import Evaluation, SaveLogits, evaluate, evaluate_strided

__all__ = ["Evaluation", "SaveLogits", "evaluate", "evaluate_strided"]
