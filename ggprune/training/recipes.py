"""Settings under which others have trained pruned models. Data only; docs/recipes.md shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ggprune.errors import UsageError
from ggprune.training.options import Loss, Schedule


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Fields of TrainOptions that a source states, and what it leaves open."""

    source: str
    settings: Mapping[str, object]
    open: str  # what the source does not say; our defaults are taken


RECIPES = {
    "modelopt": Recipe(
        source="NVIDIA Model Optimizer, notebook on pruning and distilling Qwen3-8B (8 of 36 "
        "layers dropped; MMLU .508 -> .730 with 1.6 M tokens)",
        settings={
            "loss": Loss.KD, "lora": None, "lr": 1e-4, "min_lr": 0.1, "schedule": Schedule.COSINE,
            "n_ctx": 4096, "batch": 4 * 4096, "n_token": 100 * 4 * 4096,
        },
        open="warm-up, weight decay",
    ),
    "shortened-lora": Recipe(
        source="Shortened LLaMA, arXiv:2402.02834, appendix E.2, on alpaca-cleaned",
        settings={
            "loss": Loss.CE, "lora": 8, "lr": 1e-4, "n_ctx": 256, "batch": 64 * 256, "n_epoch": 2.0,
        },
        open="length of a sample (256 is LLM-Pruner's, whose retraining it follows), alpha, "
        "schedule, warm-up",
    ),
    "shortened-cpt": Recipe(
        source="Shortened LLaMA, arXiv:2402.02834, appendix E.2, on SlimPajama",
        settings={
            "loss": Loss.CE, "lora": None, "lr": 1e-4, "weight_decay": 0.1, "betas": (0.9, 0.95),
            "clip": 1.0, "n_ctx": 2048, "batch": 512 * 2048,
        },
        open="length of a sample (2048 is the model's), schedule, warm-up; it took 37 to 271 "
        "billion tokens of text",
    ),
    "depth-first": Recipe(
        source="\"Depth-first pruning seems to transfer from GPT-2 to Llama\", r/artificial, "
        "2026-03-31: layers dropped by sensitivity, then distillation; three seeds gave a "
        "perplexity of 9.72, 9.72 and 9.70",
        settings={"loss": Loss.KD, "n_seed": 3},
        open="everything but the loss and the seeds",
    ),
}  # fmt: skip


def find_recipe(name: str) -> Recipe:
    """Raises UsageError for an unknown name."""
    if name not in RECIPES:
        raise UsageError(f"--recipe {name}: one of {', '.join(RECIPES)}")
    return RECIPES[name]
