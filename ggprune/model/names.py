"""What a tensor's name means: the layer it belongs to, and what it is there for.

Names are those of llama.cpp's src/llama-arch.cpp. Says nothing of shapes, types or values.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from enum import Flag, auto
from functools import lru_cache, reduce
from operator import or_

from ggprune.model.unit import Unit

TOKEN_EMBEDDING = "token_embd.weight"
LAYER_EMBEDDING = "per_layer_token_embd.weight"  # of gemma3n and its like
HEAD = "output.weight"

MAX_DIGITS = 18  # of a block's number; more of them only say that there is no such layer
_BLOCK = re.compile(r"(enc\.|dec\.|)blk\.(0|[1-9][0-9]*)\.(.+)", re.DOTALL)


class Role(Flag):
    """What a tensor is there for. Several may hold: `ffn_down_exps` is FFN, EXPERTS and WRITER."""

    NONE = 0
    ATTENTION = auto()
    RECURRENT = auto()  # in place of attention
    FFN = auto()
    EXPERTS = auto()  # one part for every expert
    SHARED = auto()  # of an expert that every token is sent to
    WRITER = auto()  # through it a sub-block writes into the residual stream
    TABLE = auto()  # of which a token reads one row
    HEAD = auto()
    POINTWISE = auto()  # no linear map, whatever its shape: norms, kernels, biases by position


# The first half of a layer, whatever it is made of.
MIXER = Role.ATTENTION | Role.RECURRENT

_ROLES = (
    (Role.ATTENTION, r"[._]attn_"),
    (Role.RECURRENT, r"\.(ssm_|time_mix_|shortconv\.)"),
    (Role.FFN, r"\.(ffn_|channel_mix_)"),  # RWKV mixes channels in place of an FFN
    (Role.EXPERTS, r"_exps\."),
    (Role.SHARED, r"_shexp\."),
    (Role.WRITER, r"attn_(output|out|o)\.|\.ffn_down(_exps|_shexp|_chexps)?\."),
    (Role.WRITER, r"\.(ssm_out|time_mix_output|shortconv\.out_proj|channel_mix_value)\."),
    (Role.TABLE, r"(token_embd|per_layer_token_embd|position_embd|token_types)\.weight$"),
    (Role.HEAD, r"^output\."),
    # LLM_TENSOR_INFOS in src/llama-arch.cpp has no GGML_OP_MUL_MAT for these.
    (Role.POINTWISE, r"norm|conv1d|shortconv\.conv\.|_conv_base\.|_ape\.|rel_b\.|tid2eid"),
    (Role.POINTWISE, r"res_score\.|_lerp_|\.time_mix_(first|decay|w0|a0|v0|k_k|k_a|r_k)\."),
    (Role.POINTWISE, r"\.hc_.*_(base|scale)\.|\.altup_.*_scale\."),
)
# By what is behind the block's number. A norm belongs to what it precedes; those that end in
# `post_` or stand behind the layer, to what they follow.
_HALVES = (
    (Unit.ATTN, r"attn_|ssm_|time_mix_|shortconv\.|indexer\.|post_attention_norm"),
    (Unit.FFN, r"ffn[_.]|channel_mix_|exp_probs_b|post_ffw_norm|layer_output_(norm|scale)\."),
    (Unit.FFN, r"(inp_gate|proj|post_norm)\."),  # per-layer embeddings come in behind the FFN
)
_HALF_PATTERNS = tuple((half, re.compile(pattern)) for half, pattern in _HALVES)
_PATTERNS = tuple((role, re.compile(pattern)) for role, pattern in _ROLES)


@lru_cache(maxsize=1 << 14)
def roles_of(name: str) -> Role:
    """All roles of the tensor with this name; NONE of what is not known."""
    return reduce(or_, (role for role, pattern in _PATTERNS if pattern.search(name)), Role.NONE)


def block_of(name: str) -> tuple[str, int] | None:
    """Stack ("" for the only one, "enc." or "dec.") and number of a tensor's block.

    None if the tensor belongs to no block.
    """
    match = _BLOCK.fullmatch(name)
    return (match[1], int(match[2][:MAX_DIGITS])) if match else None


def half_of(name: str, ffn: Collection[str] = ()) -> Unit | None:
    """The half of its layer that a tensor of a block belongs to; None if that is not known.

    `ffn` are beginnings of names, behind the block's number, that are the FFN's against the rule.
    """
    match = _BLOCK.fullmatch(name)
    if match is None:
        return None
    if match[3].startswith(tuple(ffn)):
        return Unit.FFN
    return next((half for half, pattern in _HALF_PATTERNS if pattern.match(match[3])), None)


def rename_block(name: str, number: int) -> str:
    """The same tensor in another block: `blk.7.attn_q.weight`, 5 -> `blk.5.attn_q.weight`."""
    match = _BLOCK.fullmatch(name)
    if match is None:
        raise ValueError(f"{name} belongs to no block")
    return f"{match[1]}blk.{number}.{match[3]}"
