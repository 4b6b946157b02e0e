"""What a step lowers, and what a model is judged by, from logits."""

from __future__ import annotations

import torch
from torch.nn import functional

from ggprune.training.options import Loss


def predictions(
    logits: torch.Tensor, tokens: torch.Tensor, learned: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities in front of every learned token, (n, n_vocab), and these tokens, (n,).

    logits: (n_row, n_ctx, n_vocab); tokens, learned: (n_row, n_ctx).
    """
    chosen = learned[:, 1:]
    return functional.log_softmax(logits[:, :-1][chosen].float(), dim=-1), tokens[:, 1:][chosen]


def divergence(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """KL(teacher || student) of log-probabilities, (n,) nats."""
    return functional.kl_div(student, teacher, reduction="none", log_target=True).sum(-1)


def cross_entropy(student: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """(n,) nats of the tokens that came."""
    return functional.nll_loss(student, targets, reduction="none")


def summed_loss(
    kind: Loss, ce_weight: float, student: torch.Tensor, teacher: torch.Tensor | None,
    targets: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    """Over all tokens; `teacher` may be missing for plain cross entropy."""
    if kind is Loss.CE or teacher is None:
        return cross_entropy(student, targets).sum()
    loss = divergence(student, teacher).sum()
    if kind is Loss.BOTH:
        loss = loss + ce_weight * cross_entropy(student, targets).sum()
    return loss
