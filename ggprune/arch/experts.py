"""Experts that leave: which tensors hold one part for each of them, and what must hold then.

llama.cpp reads one number of experts for all layers (`load_hparams` in llama-model.cpp) and sends
every token to some of them by the largest router outputs (`build_moe_ffn` in llama-graph.cpp), so
that which experts a layer keeps is its own matter, and how many is not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ggprune.arch.change import Change, Slice
from ggprune.arch.hparams import Hparams, Illegal, Key
from ggprune.arch.table import ArchitectureRow
from ggprune.model.metadata import scalar
from ggprune.model.model import Model
from ggprune.model.names import Role, block_of, roles_of

EXPERT_COUNT = "{arch}.expert_count"
GROUP_COUNT = "{arch}.expert_group_count"
WEIGHTS_NORM = "{arch}.expert_weights_norm"
GATING = "{arch}.expert_gating_func"
SOFTMAX = 1  # llama_expert_gating_func_type in llama-hparams.h
ALIKE = 4  # rows that ggml's CPU products take at a time

# Everything with one part for each expert: their matrices with biases and scales, the router's
# rows, the biases by which it chooses. That axis is always the last one.
BY_EXPERT = re.compile(r"\.(ffn_(gate|up|down|gate_up)_exps|ffn_gate_inp|exp_probs_b)(\.|$)")
# The same of sets of experts that follow other rules.
BOUND = re.compile(r"_chexps\.|tid2eid")

Experts = Mapping[int, tuple[int, ...]]  # by layer


@dataclass(frozen=True)
class Routing:
    """How a model sends tokens to experts."""

    n_expert: int
    n_used: int
    n_group: int  # 1: all of a layer's experts are chosen from at once
    layers: tuple[int, ...]  # with experts


def routing_of(model: Model, row: ArchitectureRow) -> Routing:
    """Raises Illegal if the model has no experts, or none that can leave."""
    hparams = Hparams(model)
    layers = sorted({block[1] for t in model.tensors if (block := _routed(t.name)) is not None})
    if not layers:
        raise Illegal("it has no experts")
    if not row.experts:
        raise Illegal("it is not known what its experts mean to each other")
    bound = next((t.name for t in model.tensors if BOUND.search(t.name)), None)
    if bound is not None:
        raise Illegal(f"{bound} speaks of experts by number")
    if hparams.is_array(Key.EXPERTS_USED):
        raise Illegal(f"{hparams.key(Key.EXPERTS_USED)} differs between layers")
    if hparams.integer(Key.MOE_STEP, 1) > 1:
        raise Illegal(f"{hparams.key(Key.MOE_STEP)}: not all layers that have experts use them")
    n_expert = hparams.integer(EXPERT_COUNT)
    n_group = max(hparams.integer(GROUP_COUNT), 1)
    if n_expert % n_group or n_expert < 2 * n_group:
        raise Illegal(f"{n_expert} experts are not {n_group} groups of two or more")
    routing = Routing(n_expert, hparams.integer(Key.EXPERTS_USED), n_group, tuple(layers))
    for tensor in model.tensors:
        if _is_by_expert(tensor.name) and tensor.shape[-1] != n_expert:
            raise Illegal(f"{tensor.name} has {tensor.shape[-1]} parts for {n_expert} experts")
    return routing


def experts_change(model: Model, row: ArchitectureRow, gone: Experts, ffn: Sequence[int]) -> Change:
    """What changes when the layers whose FFN stays lose experts.

    Raises Illegal if llama.cpp could not compute the rest as the original computes it without them.
    """
    routing = routing_of(model, row)
    kept = _kept(routing, gone, ffn)
    edits = {
        t.name: Slice(len(t.shape) - 1, routing.n_expert, kept[block[1]])
        for t in model.tensors
        if _is_by_expert(t.name) and (block := block_of(t.name)) is not None and block[1] in kept
    }  # fmt: skip
    n_left = len(next(iter(kept.values())))
    hparams = Hparams(model)
    key = hparams.key(EXPERT_COUNT)
    values = {key: scalar(model.metadata[key].type, n_left)}
    return Change(values=values, edits=edits, notes=tuple(_notes(hparams, row, routing, n_left)))


def _kept(routing: Routing, gone: Experts, ffn: Sequence[int]) -> dict[int, tuple[int, ...]]:
    """The experts that stay, by layer. Raises Illegal if they cannot be together."""
    layers = [n for n in routing.layers if n in ffn]
    strange = next((n for n in gone if n not in layers), None)
    if strange is not None:
        raise Illegal(f"layer {strange} has no experts")
    kept = {}
    for layer in layers:
        left = frozenset(gone.get(layer, ()))
        beyond = next((n for n in sorted(left) if n >= routing.n_expert), None)
        if beyond is not None:
            raise Illegal(f"layer {layer} has no expert {beyond}: they are 0 to "
                          f"{routing.n_expert - 1}")  # fmt: skip
        kept[layer] = tuple(n for n in range(routing.n_expert) if n not in left)
    counts = {layer: len(experts) for layer, experts in kept.items()}
    if len(set(counts.values())) > 1:
        (one, n_one), *others = counts.items()
        other, n_other = next(pair for pair in others if pair[1] != n_one)
        raise Illegal(
            f"layer {one} would keep {n_one} experts and layer {other} {n_other}: llama.cpp knows "
            "one number for all layers"
        )
    n_left = next(iter(counts.values()))
    if n_left < max(routing.n_used, 2):
        raise Illegal(f"{n_left} experts would stay, and {max(routing.n_used, 2)} are used at once")
    for layer, experts in kept.items():
        _check_groups(routing, layer, experts)
    return kept


def _check_groups(routing: Routing, layer: int, kept: tuple[int, ...]) -> None:
    """Groups are equal parts of the experts, each judged by its two best ones."""
    if routing.n_group == 1:
        return
    size = routing.n_expert // routing.n_group
    counts = [sum(n // size == group for n in kept) for group in range(routing.n_group)]
    if len(set(counts)) > 1 or counts[0] < 2:
        raise Illegal(
            f"layer {layer}'s experts are in {routing.n_group} groups, which would have "
            f"{', '.join(map(str, counts))}: as many must leave each, and two must stay"
        )


def _notes(hparams: Hparams, row: ArchitectureRow, routing: Routing, n_left: int) -> list[str]:
    notes = []
    if gates_grow(hparams, row):
        notes.append(
            "the router's softmax is not normalized over the experts that are used: all gates grow "
            "by what the experts that left had"
        )
    if n_left % ALIKE:
        notes.append(
            f"{n_left} experts are no multiple of {ALIKE}: the router's outputs may differ in the "
            "rounding of 32-bit floats from leaving the experts out in memory"
        )
    if 8 in (routing.n_expert, n_left):
        notes.append(
            "llama.cpp's K-quants treat models of exactly 8 experts differently: requantizing "
            "gives other types than those of the original"
        )
    return notes


def gates_grow(hparams: Hparams, row: ArchitectureRow) -> bool:
    """Do the gates of experts that stay change where none of those that left was chosen?"""
    if row.experts == "stated":
        normalized = hparams.value(WEIGHTS_NORM)
        is_normalized = normalized is not None and bool(normalized.decode())
        return not is_normalized and hparams.integer(GATING, SOFTMAX) == SOFTMAX
    return row.experts == "softmax"


def _is_by_expert(name: str) -> bool:
    return BY_EXPERT.search(name) is not None


def _routed(name: str) -> tuple[str, int] | None:
    """The block of a matrix of experts."""
    return block_of(name) if Role.EXPERTS in roles_of(name) else None


def holds_experts(name: str, shape: Sequence[int], n_expert: int) -> bool:
    """Are the parts of experts behind each other along the last axis of this tensor?

    It is one of the model, or has such a one's name with something behind it, as in importance
    matrices and LoRA adapters.
    """
    if not _is_by_expert(name) or n_expert == 0 or shape[-1] % n_expert:
        return False
    return "_exps" in name or not name.endswith((".lora_a", ".in_sum2", ".counts"))
