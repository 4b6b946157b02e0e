"""Architectures as which models of others are stored, because they are told how wide each layer is.

A host computes the same only of what it is told: every tensor of the model must be one that it
takes as the model's own architecture does, keys that only one of the two reads must not be set.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ggprune.arch.change import Added, Change
from ggprune.arch.experts import GATING, SOFTMAX, WEIGHTS_NORM
from ggprune.arch.hparams import Hparams, Illegal, Key
from ggprune.arch.table import Alone
from ggprune.model.fields import MAX_U32
from ggprune.model.metadata import Value, ValueType, array, scalar
from ggprune.model.model import Model
from ggprune.model.names import HEAD, TOKEN_EMBEDDING, block_of
from ggprune.model.newlayer import NewLayer

ROPE_SIZE = "{arch}.rope.dimension_count"
ROPE_SIZE_SWA = "{arch}.rope.dimension_count_swa"
ROPE_BASE = "{arch}.rope.freq_base"
ROPE_BASE_SWA = "{arch}.rope.freq_base_swa"
ROPE_FREQS = "rope_freqs.weight"
EXPERT_WIDTH = "{arch}.expert_feed_forward_length"
SHARED_WIDTH = "{arch}.expert_shared_feed_forward_length"
WINDOW = 1 << 22  # beyond every context; step35 wants windows
DEFAULT_ROPE_BASE = 10000.0  # llama-model.cpp

_ATTENTION = r"attn_(norm\.weight|(q|k|v|qkv|output)\.(weight|scale|input_scale)|(q|k|v|qkv)\.bias)"


@dataclass(frozen=True)
class Host:
    """What an architecture takes as others do, and what is to be known of files of it.

    `block` is a pattern of tensors behind the block's number, `tensors` are names of those outside
    the blocks, `own` templates of keys that it reads beside those that all architectures do.
    """

    block: str
    tensors: tuple[str, ...]
    notes: tuple[str, ...]
    own: tuple[str, ...] = ()


HOSTS = {
    "deci": Host(
        block=rf"{_ATTENTION}|attn_output\.bias|ffn_norm\.weight|ffn_(gate|up|down)\.(weight|bias)",
        tensors=(TOKEN_EMBEDDING, HEAD, "output_norm.weight", ROPE_FREQS),
        notes=(
            "stored as architecture deci, which is told how wide each layer is: loads in llama.cpp "
            "since December 2024 (PR 10669), in ik_llama.cpp since PR 377",
        ),
    ),
    "step35": Host(
        block=(
            rf"{_ATTENTION}|attn_(q|k)_norm\.weight|ffn_norm\.weight|ffn_(gate|up|down)\.weight"
            r"|ffn_gate_inp\.weight|ffn_(gate|up|down)_exps\.weight|post_attention_norm\.weight"
        ),
        tensors=(TOKEN_EMBEDDING, HEAD, "output_norm.weight", ROPE_FREQS),
        notes=(
            "stored as architecture step35, which is told how wide each layer is: loads in "
            "llama.cpp since February 2026 (PR 19283), in KoboldCpp since 1.107.3",
            "llama.cpp cannot shift the context of step35: a chat ends where the context is full",
        ),
        own=(
            EXPERT_WIDTH, SHARED_WIDTH, GATING, WEIGHTS_NORM, "{arch}.expert_weights_scale",
            Key.SLIDING_WINDOW, Key.SWA_PATTERN, ROPE_BASE_SWA,
            "{arch}.swiglu_clamp_exp", "{arch}.swiglu_clamp_shexp",
        ),
    ),
}  # fmt: skip

# Of windows; read for every architecture, and of no account in one without windows.
_OF_WINDOWS = (ROPE_SIZE_SWA, f"{Key.KEY_LENGTH}_swa", f"{Key.VALUE_LENGTH}_swa")


def host_change(alone: Alone, model: Model, layers: Sequence[NewLayer]) -> Change:
    """What makes a model one of the architecture that `alone` names, beside its layers' widths.

    Raises Illegal if it would not compute the same.
    """
    assert alone.host is not None
    host, hparams = HOSTS[alone.host], Hparams(model)
    for key, without in alone.unless.items():
        if hparams.number(key, without) != without:
            raise Illegal(f"{hparams.key(key)} is set, which {alone.host} does not know")
    _check_tensors(model, alone.host, host)
    if alone.host == "deci":
        _check_deci(hparams)
        made = Change()
    else:
        made = _step35(hparams, layers)
    gone = frozenset(hparams.key(template) for template in (*host.own, *_OF_WINDOWS))
    unread = frozenset(t.name for t in model.tensors if t.name.endswith(alone.unread))
    return Change(arch=alone.host, gone=gone, dropped=unread, notes=host.notes) | made


def _check_tensors(model: Model, name: str, host: Host) -> None:
    block = re.compile(rf"blk\.\d+\.({host.block})")
    for tensor in model.tensors:
        is_known = block.fullmatch(tensor.name) if block_of(tensor.name) else (
            tensor.name in host.tensors
        )  # fmt: skip
        if not is_known:
            raise Illegal(f"{tensor.name} is nothing that {name} computes with")


def _check_deci(hparams: Hparams) -> None:
    """All of a head is rotated, and keys are as wide as values (deci.cpp)."""
    size = head_size(hparams, Key.KEY_LENGTH)
    sizes = (size, head_size(hparams, Key.VALUE_LENGTH), hparams.integer(ROPE_SIZE, size))
    if len(set(sizes)) > 1:
        raise Illegal(f"keys, values and the part of them that is rotated have the sizes {sizes}")


def head_size(hparams: Hparams, template: str) -> int:
    """The size of a head, as llama.cpp has it."""
    if hparams.value(template) is not None:
        return hparams.integer(template)
    heads = hparams.per_layer(Key.HEAD_COUNT)
    first = heads[0] if heads is not None else hparams.integer(Key.HEAD_COUNT)
    if not first:
        raise Illegal(f"{hparams.key(template)} is not stated and layer 0 has no heads")
    return hparams.integer(Key.EMBEDDING_LENGTH) // first


def _step35(hparams: Hparams, layers: Sequence[NewLayer]) -> Change:
    """It halves the part of a head that is rotated, wants a window, an output matrix of its own,
    and adds a shared expert to the others (step35.cpp)."""
    model = hparams.model
    n_rot = hparams.integer(ROPE_SIZE, head_size(hparams, Key.KEY_LENGTH), most=MAX_U32 // 2)
    window = _window_layer(hparams, layers)
    base = hparams.number(ROPE_BASE, DEFAULT_ROPE_BASE)
    values: dict[str, Value] = {
        ROPE_SIZE: _u32(2 * n_rot),
        ROPE_SIZE_SWA: _u32(n_rot),
        ROPE_BASE_SWA: scalar(ValueType.FLOAT32, base),
        Key.SLIDING_WINDOW: _u32(WINDOW),
        Key.SWA_PATTERN: array(ValueType.BOOL, [n == window for n in range(len(layers))]),
    }
    values |= {
        template: _u32(head_size(hparams, template))
        for template in (Key.KEY_LENGTH, Key.VALUE_LENGTH)
    }
    moved = dict(_norms(model, layers))
    made = Change(
        values={hparams.key(template): value for template, value in values.items()}, moved=moved
    ) | _experts(hparams, layers)
    if HEAD in model.by_name or TOKEN_EMBEDDING not in model.by_name:
        return made
    size = model.by_name[TOKEN_EMBEDDING].size_bytes
    note = f"the output matrix is a copy of the embeddings, which were one: {size:,} bytes more"
    return made | Change(copied={HEAD: TOKEN_EMBEDDING}, notes=(note,))


def _u32(n: int) -> Value:
    return scalar(ValueType.UINT32, n)


def _window_layer(hparams: Hparams, layers: Sequence[NewLayer]) -> int:
    """The layer whose window is the one that must be there. Windows have no scaled positions, so
    that where there are such it is a layer without attention."""
    without = [new for new, layer in enumerate(layers) if layer.attn is None]
    if without:
        return without[0]
    factors = (hparams.number(f"{{arch}}.rope.{key}") for key in ("scaling.factor", "scale_linear"))
    if ROPE_FREQS in hparams.model.by_name or any(factor not in (0, 1) for factor in factors):
        raise Illegal("its positions are scaled: an attention would have to leave as well")
    return len(layers) - 1


def _norms(model: Model, layers: Sequence[NewLayer]) -> Iterator[tuple[str, str]]:
    """Seed-OSS calls the norm before its FFN after the attention."""
    for new, layer in enumerate(layers):
        old = f"blk.{layer.ffn}.post_attention_norm.weight"
        if layer.ffn is not None and old in model.by_name:
            yield old, f"blk.{new}.ffn_norm.weight"


def _experts(hparams: Hparams, layers: Sequence[NewLayer]) -> Change:
    """Gates are softmax, normalized; a shared expert of zeros."""
    model, n_embd = hparams.model, hparams.integer(Key.EMBEDDING_LENGTH)
    parts = (t for t in model.tensors if t.name.endswith(".ffn_down_exps.weight"))
    slabs = next(parts, None)
    if slabs is None:
        return Change(values={hparams.key(EXPERT_WIDTH): _u32(0)})
    values = {
        EXPERT_WIDTH: _u32(slabs.shape[0]), SHARED_WIDTH: _u32(1), GATING: _u32(SOFTMAX),
        WEIGHTS_NORM: scalar(ValueType.BOOL, True),
    }  # fmt: skip
    added: dict[str, Added] = {}
    for new, layer in enumerate(layers):
        if f"blk.{layer.ffn}.ffn_gate_inp.weight" in model.by_name:
            name = f"blk.{new}.ffn_{{}}_shexp.weight"
            added |= {name.format(part): Added((n_embd, 1)) for part in ("gate", "up")}
            added[name.format("down")] = Added((1, n_embd))
    return Change(values={hparams.key(k): v for k, v in values.items()}, added=added)
