"""llama-bench's options, of which each takes a list, and the grid of tests that they make."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from typer import Option

from ggprune.bench import Grid
from ggprune.bench.cases import CACHE_TYPES, FLASH, parse_pairs, parse_ranges, parse_words

SPEED = "llama-bench's tests"
TOKENS, BATCH = (0, 1 << 24), (1, 1 << 24)  # the smallest and the largest number
THREADS, LAYERS = (1, 512), (-100_000, 100_000)


Values = list[str] | None  # lists of values: an option may be repeated


def listed(
    *names: str, default: str | bool, text: str, metavar: str = "N,...", panel: str = SPEED
) -> object:
    return Option(*names, metavar=metavar, show_default=default, rich_help_panel=panel, help=text)


def given_ranges(values: Values, option: str, limits: tuple[int, int]) -> tuple[int, ...] | None:
    """All numbers that are meant, None if the option was not given."""
    return parse_ranges(values, option, *limits) if values else None


@dataclass(frozen=True, kw_only=True)
class GridOptions:
    """Values of every parameter of a test."""

    n_prompt: Annotated[
        Values,
        listed("-p", "--n-prompt", default="512", text="Tokens of the pp test; 0: no such test."),
    ] = None
    n_gen: Annotated[
        Values,
        listed("-n", "--n-gen", default="128", text="Tokens of the tg test; 0: no such test."),
    ] = None
    prompt_gen: Annotated[
        Values,
        listed(
            "-pg", metavar="PP,TG", default=False,
            text="A prompt and what follows, as one test; may be repeated.",
        ),
    ] = None  # fmt: skip
    n_depth: Annotated[
        Values,
        listed("-d", "--n-depth", default="0", text="Tokens in the context before a test starts."),
    ] = None
    n_batch: Annotated[
        Values, listed("-b", "--batch-size", default="2048", text="Logical batch size.")
    ] = None
    n_ubatch: Annotated[
        Values, listed("-ub", "--ubatch-size", default="512", text="Physical batch size.")
    ] = None
    type_k: Annotated[
        Values,
        listed(
            "-ctk", "--cache-type-k", metavar="TYPE,...", default="f16",
            text="Type of the cached keys.",
        ),
    ] = None  # fmt: skip
    type_v: Annotated[
        Values,
        listed("-ctv", "--cache-type-v", metavar="TYPE,...", default="f16", text="... and values."),
    ] = None
    threads: Annotated[
        Values, listed("-t", "--threads", default="physical cores", text="CPU threads.")
    ] = None
    n_gpu_layers: Annotated[
        Values,
        listed(
            "-ngl", "--n-gpu-layers", default="-1: all",
            text="Layers to keep on the GPU (GPU builds only).",
        ),
    ] = None  # fmt: skip
    flash_attn: Annotated[
        Values,
        listed(
            "-fa", "--flash-attn", metavar="on|off|auto,...", default="auto",
            text="Flash attention.",
        ),
    ] = None  # fmt: skip

    def has_tests(self) -> bool:
        return bool(self.n_prompt or self.n_gen or self.prompt_gen or self.n_depth)

    def grid(self) -> Grid:
        """Raises UsageError for what is no list of values."""
        usual = Grid()
        return Grid(
            n_prompt=given_ranges(self.n_prompt, "--n-prompt", TOKENS) or usual.n_prompt,
            n_gen=given_ranges(self.n_gen, "--n-gen", TOKENS) or usual.n_gen,
            prompt_gen=parse_pairs(self.prompt_gen or ()),
            n_depth=given_ranges(self.n_depth, "--n-depth", TOKENS) or usual.n_depth,
            n_batch=given_ranges(self.n_batch, "--batch-size", BATCH) or usual.n_batch,
            n_ubatch=given_ranges(self.n_ubatch, "--ubatch-size", BATCH) or usual.n_ubatch,
            type_k=parse_words(self.type_k or usual.type_k, "--cache-type-k", CACHE_TYPES),
            type_v=parse_words(self.type_v or usual.type_v, "--cache-type-v", CACHE_TYPES),
            n_threads=given_ranges(self.threads, "--threads", THREADS) or usual.n_threads,
            n_gpu_layers=given_ranges(self.n_gpu_layers, "--n-gpu-layers", LAYERS)
            or usual.n_gpu_layers,
            flash_attn=parse_words(self.flash_attn or ("auto",), "--flash-attn", FLASH),
        )
