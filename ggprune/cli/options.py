"""Options that several commands share, named as llama.cpp names them."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ggprune.errors import UsageError

if TYPE_CHECKING:
    from ggprune.metrics.text import Text
    from ggprune.model import Model
    from ggprune.runtime.session import Compute
    from ggprune.scoring import DropRequest


class FlashAttention(str, Enum):
    """As llama.cpp's -fa."""

    ON = "on"
    OFF = "off"
    AUTO = "auto"


ModelPath = Annotated[
    Path,
    typer.Argument(
        metavar="IN.gguf", show_default=False, help="The model; any shard of a split one."
    ),
]
OutPath = Annotated[
    Path, typer.Argument(metavar="OUT.gguf", show_default=False, help="The file to write.")
]
TextFile = Annotated[
    Path | None,
    typer.Option("-f", "--file", show_default=False, help="UTF-8 text to measure on."),
]
ContextSize = Annotated[
    int,
    typer.Option("-c", "--ctx-size", min=8, max=1 << 24, help="Tokens per chunk, BOS included."),
]
Chunks = Annotated[
    int | None,
    typer.Option("--chunks", min=1, show_default="all", help="Measure on the first N chunks only."),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "-t", "--threads", min=1, max=512, show_default="physical cores", help="CPU threads."
    ),
]
GpuLayers = Annotated[
    int,
    typer.Option(
        "-ngl",
        "--n-gpu-layers",
        min=-1,
        max=100_000,
        help="Layers to keep on the GPU; -1: all (GPU builds only).",
    ),
]
Flash = Annotated[FlashAttention, typer.Option("-fa", "--flash-attn", help="Flash attention.")]
BatchSize = Annotated[
    int, typer.Option("-b", "--batch-size", min=1, max=1 << 24, help="Logical batch size.")
]
UBatchSize = Annotated[
    int, typer.Option("-ub", "--ubatch-size", min=1, max=1 << 24, help="Physical batch size.")
]
Confidence = Annotated[
    float,
    typer.Option(
        min=0.5, max=0.9999, help="Of all decisions together: how sure a layer leaves the race."
    ),
]
Exhaustive = Annotated[
    bool, typer.Option("--exhaustive", help="Score every layer on every chunk; no race.")
]
StrategyName = Annotated[
    str,
    typer.Option(
        "--strategy",
        metavar="NAME",
        help="How the set is found: oneshot, greedy, window, search or exhaustive.",
    ),
]
Protect = Annotated[
    str | None,
    typer.Option(metavar="LAYERS", show_default=False, help="Layers that stay, whatever happens."),
]
DropPercent = Annotated[
    float | None,
    typer.Option(min=0.1, max=99.9, show_default=False, help="... or this share of the layers."),
]
TargetSize = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE", show_default=False, help="... or until the file has at most so many bytes."
    ),
]
TargetParams = Annotated[
    str | None,
    typer.Option(
        metavar="N", show_default=False, help="... or until at most so many parameters are left."
    ),
]
TargetSpeedup = Annotated[
    float | None,
    typer.Option(
        min=1.001,
        max=100,
        show_default=False,
        help="... or until tokens are generated so much faster, by the bytes read for each.",
    ),
]
MaxKld = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        show_default=False,
        help="KLD that must not be exceeded; without a number, as many layers as it allows.",
    ),
]
MaxPplRatio = Annotated[
    float | None,
    typer.Option(min=1.0, show_default=False, help="The same for the ratio of perplexities."),
]
UseCache = Annotated[
    bool,
    typer.Option(
        "--cache/--no-cache",
        help="Keep finished measurements in the user's cache folder: a run that was ended goes on.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document to stdout.")]
Force = Annotated[bool, typer.Option("--force", help="Replace the output if it exists.")]
Verify = Annotated[
    bool,
    typer.Option(
        "--verify/--no-verify",
        help="After checking every byte, also load the result in llama.cpp and decode with it.",
    ),
]
DropMtp = Annotated[
    bool,
    typer.Option(
        "--drop-mtp", help="Also drop all multi-token-prediction (MTP) blocks behind the layers."
    ),
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust-uniform-layers",
        help="Prune architectures that ggprune does not know: vouch that all layers are alike.",
    ),
]
ImatrixFile = Annotated[
    Path | None,
    typer.Option(
        "--imatrix",
        show_default=False,
        help="Importance matrix of the unpruned model (GGUF or .dat) for quantizing.",
    ),
]
AllowRequantize = Annotated[
    bool,
    typer.Option("--allow-requantize", help="Quantize tensors that are quantized already."),
]


def compute_options(
    threads: int | None,
    n_gpu_layers: int,
    flash_attn: FlashAttention,
    n_batch: int = 2048,
    n_ubatch: int = 512,
) -> Compute:
    from ggprune.runtime.session import Compute

    on_off = {FlashAttention.ON: True, FlashAttention.OFF: False, FlashAttention.AUTO: None}
    return Compute(
        n_threads=threads,
        n_gpu_layers=n_gpu_layers,
        flash_attn=on_off[flash_attn],
        n_batch=n_batch,
        n_ubatch=n_ubatch,
    )


def wanted_option(
    model: Model,
    *,
    drop: int | None = None,
    drop_percent: float | None = None,
    target_size: str | None = None,
    target_params: str | None = None,
    target_speedup: float | None = None,
    max_kld: float | None = None,
    max_ppl_ratio: float | None = None,
    strategy: str = "search",
    protect: str | None = None,
) -> DropRequest | None:
    """The set of layers that is asked for, None if none is.

    Raises UsageError if more than one number is given, or one that cannot be.
    """
    from ggprune.arch import n_trunk
    from ggprune.model.layers import parse_layers
    from ggprune.scoring import DropRequest, Goal, Limits, Target
    from ggprune.scoring.choice import parse_strategy
    from ggprune.scoring.target import OPTIONS, parse_amount

    size = parse_amount(target_size, Goal.SIZE) if target_size is not None else None
    params = parse_amount(target_params, Goal.PARAMS) if target_params is not None else None
    given = {Goal.LAYERS: drop, Goal.PERCENT: drop_percent, Goal.SIZE: size, Goal.PARAMS: params,
             Goal.SPEEDUP: target_speedup}  # fmt: skip
    targets = [Target(goal, value) for goal, value in given.items() if value is not None]
    if len(targets) > 1:
        raise UsageError(f"{OPTIONS[targets[0].goal]} or {OPTIONS[targets[1].goal]}, not both")
    target, limits = targets[0] if targets else None, Limits(max_kld, max_ppl_ratio)
    how = parse_strategy(strategy)
    protected = parse_layers(protect, n_trunk(model)) if protect is not None else ()
    if target is None and not limits:
        return None
    if target is not None:
        target.n_drop(model)  # says what is wrong with it
    return DropRequest(target, how, limits, tuple(protected))


def text_option(path: Path | None, shipped: str) -> Text:
    """The user's text, or the one of that name that ships with the package."""
    from ggprune.metrics.text import read_text, shipped_text

    return read_text(path) if path is not None else shipped_text(shipped)
