"""What every layer's weights are worth to the loss, to first order. Computed by torch.

Taylor of Shortened LLaMA (Kim et al. 2024, arXiv:2402.02834, section 3.1): the sum of |dL/dW * W|
over the layer's weight matrices W, all their outputs and all their inputs, where L is the training
loss on all of the calibration text. A small sum says that no weight alone is missed much, not that
all of them together are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from ggprune.arch.hparams import n_trunk
from ggprune.errors import ArchitectureError, LlamaError
from ggprune.metrics.chunks import Tokens
from ggprune.metrics.estimates import Float32, Float64
from ggprune.model.model import Model
from ggprune.progress import SILENT, Progress
from ggprune.training.loop import pick_device
from ggprune.training.losses import cross_entropy, divergence, predictions
from ggprune.training.networks import DTYPES, layers_name, load, logits_of
from ggprune.training.options import PROOF_KLD, Device
from ggprune.training.worker import usual_precision


def measure(
    model: Model, chunks: Tokens, known: Float32, n_thread: int | None = None,
    progress: Progress = SILENT,
) -> Float64:  # fmt: skip
    """Sum of |dL/dW * W| per trunk layer, (n_trunk,), in nats; higher is worth more.

    model: in one file. chunks: (n_chunk, n_ctx) tokens; L is their mean cross entropy, of all
    tokens but the first of each. known: (n_ctx, n_vocab) logits of the first one, by llama.cpp.
    `progress` is told the chunks. Raises ArchitectureError if transformers does not read the model
    or computes another one than llama.cpp, LlamaError if a sum is not finite.
    """
    device = pick_device(Device.AUTO)
    if n_thread is not None:
        torch.set_num_threads(n_thread)
    network = load(model, DTYPES[usual_precision(device).value], device)
    layers = network.get_submodule(layers_name(network, n_trunk(model), model.path))
    rows = torch.from_numpy(chunks).long().to(device)
    _prove(network, rows[:1], known, model)
    matrices = [matrices_of(layer) for layer in layers.children()]
    gradients = iter(_gradients(network, [w for own in matrices for w in own], rows, progress))
    sums = np.array([sum(_product(w, next(gradients)) for w in own) for own in matrices])
    if not np.isfinite(sums).all():
        raise LlamaError(f"{model.path}: a gradient of the loss is not finite")
    return sums


def matrices_of(layer: nn.Module) -> list[nn.Parameter]:
    """What a layer multiplies its inputs by: also a router's matrix, and those of all experts.

    Experts' matrices are one parameter of three dimensions. No norms, no biases, no convolutions.
    """
    return [
        values
        for module in layer.modules() if not isinstance(module, nn.Conv1d)
        for name, values in module.named_parameters(recurse=False)
        if values.dim() == 3 or (values.dim() == 2 and name == "weight")
    ]  # fmt: skip


def _prove(network: nn.Module, row: torch.Tensor, known: Float32, model: Model) -> None:
    """Mean KL divergence of torch's probabilities from llama.cpp's, over one row, (1, n_ctx)."""
    everything = torch.ones_like(row, dtype=torch.bool)
    with torch.no_grad():
        own, _ = predictions(logits_of(network, row), row, everything)
        wanted, _ = predictions(torch.from_numpy(known)[None].to(own.device), row, everything)
        kld = float(divergence(own, wanted).mean())
    if not kld < PROOF_KLD:
        raise ArchitectureError(
            f"{model.path}: transformers computes another {model.arch} than llama.cpp: KL "
            f"divergence {kld:.3g}, at most {PROOF_KLD:g} proves it; --metric taylor needs its "
            "gradients, all other metrics do without"
        )


def _gradients(
    network: nn.Module, matrices: Sequence[nn.Parameter], rows: torch.Tensor, progress: Progress
) -> list[torch.Tensor]:
    """Of the mean loss of all rows, (n_row, n_ctx), by every matrix; summed in 32-bit floats."""
    sums = [torch.zeros_like(matrix, dtype=torch.float32) for matrix in matrices]
    for matrix, total in zip(matrices, sums, strict=True):
        matrix.requires_grad_(True)
        matrix.register_post_accumulate_grad_hook(_adder(total))
    for n, row in enumerate(rows.split(1)):
        own, targets = predictions(logits_of(network, row), row, torch.ones_like(row).bool())
        (cross_entropy(own, targets).mean() / len(rows)).backward()
        progress.step(n + 1, len(rows))
    return sums


def _adder(total: torch.Tensor) -> Callable[[torch.Tensor], None]:
    """Takes a matrix's gradient as soon as it is known: no row's gradients are there at once."""

    def add(matrix: torch.Tensor) -> None:
        assert matrix.grad is not None
        total.add_(matrix.grad)
        matrix.grad = None

    return add


def _product(matrix: nn.Parameter, gradient: torch.Tensor) -> float:
    """Rows are summed in 32 bits, their sums in 64, which not every device has."""
    rows = (gradient * matrix.detach()).abs().sum(-1)
    return float(rows.cpu().double().sum())
