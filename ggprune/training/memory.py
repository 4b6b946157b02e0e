"""What training takes, told before anything is loaded. An estimate: activations differ by model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ggprune.errors import DataError
from ggprune.model.model import Model
from ggprune.training.options import Precision, TrainOptions

GIB = 1 << 30
WEIGHT_BYTES = {Precision.F32: 4, Precision.BF16: 2, Precision.F16: 2}
TRAINED_BYTES = 16  # a parameter, its gradient and two moments, in 32-bit floats
LOGIT_COPIES = 5  # both models' logits and log-probabilities, and a gradient
LAYER_COPIES = 34  # of the stream in a layer, kept for its gradient; arXiv:2205.05198, section 4.1


def estimate_bytes(
    model: Model, keep: Sequence[int], options: TrainOptions, precision: Precision, n_row: int
) -> int:
    """Memory of one process; `n_row` rows are computed at once."""
    blocks = dict.fromkeys(range(model.n_layer), 0)
    matrices = 0
    for tensor in model.tensors:
        if not tensor.name.startswith("blk."):
            continue
        n = int(tensor.name.split(".")[1])
        blocks[n] = blocks.get(n, 0) + tensor.n_element
        if n in keep and len(tensor.shape) == 2:
            matrices += sum(tensor.shape)
    embedding = model.by_name["token_embd.weight"].shape
    widest, n_vocab = embedding[0], embedding[1]
    n_param = sum(tensor.n_element for tensor in model.tensors)
    trained = matrices * options.lora if options.lora else sum(blocks[n] for n in keep)
    tokens = n_row * options.n_ctx
    n_kept_layer = 2 if options.checkpointing else len(keep)
    activations = tokens * widest * WEIGHT_BYTES[precision] * LAYER_COPIES * n_kept_layer
    return (
        n_param * WEIGHT_BYTES[precision]
        + trained * TRAINED_BYTES
        + tokens * n_vocab * 4 * LOGIT_COPIES
        + activations
    )


@dataclass(frozen=True)
class Outlook:
    """What a training process would find."""

    device: str
    precision: str
    memory_bytes: int
    free_bytes: int


def check_memory(outlook: Outlook, *, force: bool) -> str:
    """A line about it. Raises DataError if there is not enough, unless forced."""
    needed, free = outlook.memory_bytes / GIB, outlook.free_bytes / GIB
    if needed > free and not force:
        raise DataError(
            f"training needs about {needed:.1f} GiB of memory on {outlook.device}, {free:.1f} are "
            "free: --lora instead of --full, --dtype bf16, --gradient-checkpointing or a smaller "
            "-c take less (--force tries)"
        )
    return (
        f"on {outlook.device} in {outlook.precision}: about {needed:.1f} GiB of memory, "
        f"{free:.1f} free"
    )
