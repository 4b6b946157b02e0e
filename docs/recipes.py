"""The page recipes.md, from the recipes themselves."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum

from ggprune.report.blocks import markdown_table
from ggprune.training.recipes import RECIPES, Recipe

OPTIONS = {
    "loss": "--loss", "lora": "--lora", "lr": "--lr", "min_lr": "rate at the end, as a share",
    "schedule": "--schedule", "n_ctx": "-c", "batch": "--batch", "n_token": "--tokens",
    "n_epoch": "--epochs", "weight_decay": "weight decay", "betas": "betas of AdamW",
    "clip": "largest norm of a gradient", "n_seed": "--seeds",
}  # fmt: skip
HEAD = """# Recipes

Settings under which others have trained pruned models, as `ggprune heal --train --recipe NAME`
takes them. What a source does not state is open: there the defaults of ggprune hold, and options
that are given come before the recipe's. The optimizer is AdamW everywhere. Generated from
`ggprune/training/recipes.py` by `make docs`.
"""
TAIL = """## Continued pretraining, then LoRA

Shortened LLaMA's CPT => LoRA is two calls: the second one takes the file that the first one wrote,
and the original as the model that it is judged by.

```
ggprune heal --prune-layers 20-27 --train --recipe shortened-cpt -f corpus/ model.gguf cpt.gguf
ggprune heal --base model.gguf --train --recipe shortened-lora --no-refit -f alpaca.jsonl \\
    cpt.gguf cpt-lora.gguf
```
"""


def document() -> str:
    parts = [HEAD, *(_part(name, recipe) for name, recipe in RECIPES.items()), TAIL]
    return "\n".join(parts)


def _part(name: str, recipe: Recipe) -> str:
    table = markdown_table(("setting", "value"), list(_rows(recipe)))
    return f"## {name}\n\nSource: {recipe.source}.\n\n{table}\n\nOpen: {recipe.open}.\n"


def _rows(recipe: Recipe) -> Iterator[tuple[str, str]]:
    for key, value in recipe.settings.items():
        option = OPTIONS[key]
        if key == "lora" and value is None:
            yield "--full", ""
            continue
        shown = value.value if isinstance(value, Enum) else value
        yield (f"`{option}`" if option.startswith("-") else option), str(shown)
