"""The options of training; they mean nothing without --train."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import Enum
from pathlib import Path
from typing import Annotated, TypeVar

from typer import Option

from ggprune.cli.completion import one_of, values_of
from ggprune.cli.measuring import Computing
from ggprune.errors import UsageError
from ggprune.files.amounts import parse_number
from ggprune.training.options import Device, Loss, Precision, Schedule, TrainOptions
from ggprune.training.recipes import RECIPES, find_recipe

E = TypeVar("E", bound=Enum)


@dataclass(frozen=True, kw_only=True)
class Training:
    """How the pruned model is trained."""

    # fmt: off
    train: Annotated[bool, Option(
        "--train", help="Then train it with torch: pip install 'ggprune[train]'.")] = False
    no_refit: Annotated[bool, Option(
        "--no-refit", help="Train without fitting matrices before.")] = False
    recipe: Annotated[str | None, Option(
        metavar="NAME", autocompletion=one_of(RECIPES),
        help="Settings of others: modelopt, shortened-lora, shortened-cpt or "
        "depth-first (docs/recipes.md); options that are given come first.")] = None
    loss: Annotated[str | None, Option(
        metavar="NAME", show_default="kd", autocompletion=values_of(Loss),
        help="kd: KL divergence from the original; ce: cross entropy with the text; kd+ce.")] = None
    ce_weight: Annotated[float | None, Option(
        min=0.0, show_default="0.5", help="Of cross entropy in kd+ce.")] = None
    full: Annotated[bool, Option(
        "--full", help="Train all weights of the layers, not adapters.")] = False
    lora_out: Annotated[Path | None, Option(
        "--lora-out", metavar="OUT.gguf",
        help="Write what was trained as an adapter, too; with --no-refit.")] = None
    tokens: Annotated[str | None, Option(
        metavar="N", show_default="all of the text once",
        help="Train on so many tokens (2M), the text again and again if need be.")] = None
    epochs: Annotated[float | None, Option(min=0.001, help="... or on the text so often.")] = None
    lr: Annotated[float | None, Option(
        min=0.0, show_default="5e-4, with --full 1e-4", help="Largest learning rate.")] = None
    batch: Annotated[int | None, Option(
        min=1, show_default="2048", help="Tokens a step.")] = None
    micro_batch: Annotated[int | None, Option(
        "--micro-batch", min=1, show_default="1, on a GPU 4", help="Rows computed at once.")] = None
    warmup: Annotated[float | None, Option(
        min=0.0, max=1.0, show_default="0.05", help="Share of the steps.")] = None
    schedule: Annotated[str | None, Option(
        metavar="NAME", show_default="cosine", autocompletion=values_of(Schedule),
        help="cosine, linear or constant_with_warmup.",
    )] = None
    seed: Annotated[int | None, Option(min=0, show_default="0", help="Of order and start.")] = None
    seeds: Annotated[int | None, Option(
        min=1, help="Train so often with other seeds; the best on rows set aside is written.",
    )] = None
    answers_only: Annotated[bool, Option(
        "--answers-only", help="Learn what assistants say in conversations, and nothing else.",
    )] = False
    device: Annotated[str | None, Option(
        metavar="NAME", show_default="auto", autocompletion=values_of(Device),
        help="Torch's: cpu, cuda, mps.")] = None
    dtype: Annotated[str | None, Option(
        metavar="TYPE", show_default="f32, on a GPU bf16", autocompletion=values_of(Precision),
        help="Torch's: f32, bf16, f16.")] = None
    checkpointing: Annotated[bool, Option(
        "--gradient-checkpointing", help="Less memory, a third more time.")] = False
    num_processes: Annotated[int | None, Option(
        "--num-processes", min=1, help="Share every step between so many processes.")] = None
    log: Annotated[Path | None, Option(help="Write every step down, as JSON lines.")] = None
    curves: Annotated[Path | None, Option(help="Draw how it went (.png, .svg, .pdf).")] = None
    checkpoints: Annotated[Path | None, Option(
        metavar="DIR", show_default="the user's cache folder",
        help="Where a run that is ended goes on.")] = None
    # fmt: on

    def options(self, lora: str | None, n_ctx: int, computing: Computing) -> TrainOptions:
        """Raises UsageError for what is no number or name, or contradicts itself."""
        if self.full and lora is not None:
            raise UsageError("--lora or --full, not both")
        if self.tokens is not None and self.epochs is not None:
            raise UsageError("--tokens or --epochs, not both")
        given = {
            "loss": _named(Loss, "--loss", self.loss), "ce_weight": self.ce_weight,
            "lora": _rank(lora) if lora is not None else None, "n_epoch": self.epochs,
            "n_token": parse_number(self.tokens, "--tokens") if self.tokens else None,
            "lr": self.lr, "batch": self.batch, "micro_batch": self.micro_batch,
            "warmup": self.warmup, "seed": self.seed, "n_seed": self.seeds,
            "schedule": _named(Schedule, "--schedule", self.schedule),
            "device": _named(Device, "--device", self.device),
            "precision": _named(Precision, "--dtype", self.dtype),
            "n_process": self.num_processes, "n_thread": computing.threads,
        }  # fmt: skip
        settings = dict(find_recipe(self.recipe).settings) if self.recipe else {}
        settings.setdefault("n_ctx", n_ctx)
        settings |= {name: value for name, value in given.items() if value is not None}
        if self.tokens is not None:
            settings.pop("n_epoch", None)
        if self.full:
            settings["lora"] = None
        settings |= {"answers_only": self.answers_only, "checkpointing": self.checkpointing}
        return TrainOptions(**settings)  # type: ignore[arg-type]

    def check_unused(self) -> None:
        """Raises UsageError for an option that means nothing, because nothing is trained."""
        for field in fields(self):
            if getattr(self, field.name) != field.default:
                option = "--" + field.name.replace("_", "-").replace(
                    "checkpointing", "gradient-checkpointing"
                )
                raise UsageError(f"{option} is about training: add --train")


def _named(kind: type[E], option: str, name: str | None) -> E | None:
    if name is None:
        return None
    try:
        return kind(name)
    except ValueError as e:
        names = ", ".join(str(item.value) for item in kind)
        raise UsageError(f"{option} {name}: one of {names}") from e


def _rank(text: str) -> int:
    if not text.isdigit() or not 0 < int(text) <= 1 << 16:
        raise UsageError(
            f"--lora {text}: with --train it is a rank, a number like 16; --lora-out names a file"
        )
    return int(text)
