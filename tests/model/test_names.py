"""What names mean, on the names that llama.cpp knows."""

from __future__ import annotations

import pytest
from gguf.constants import MODEL_TENSOR, TENSOR_NAMES

from ggprune.model.names import MIXER, Role, block_of, half_of, rename_block, roles_of
from ggprune.model.unit import Unit

KNOWN = {
    "blk.3.attn_q.weight": Role.ATTENTION,
    "blk.3.attn_output.weight": Role.ATTENTION | Role.WRITER,
    "dec.blk.0.cross_attn_o.weight": Role.ATTENTION | Role.WRITER,
    "blk.3.attn_output_norm.weight": Role.ATTENTION | Role.POINTWISE,
    "blk.3.ssm_out.weight": Role.RECURRENT | Role.WRITER,
    "blk.3.ssm_conv1d.weight": Role.RECURRENT | Role.POINTWISE,
    "blk.3.shortconv.conv.weight": Role.RECURRENT | Role.POINTWISE,
    "blk.3.time_mix_lerp_k.weight": Role.RECURRENT | Role.POINTWISE,
    "blk.3.time_mix_decay_w1.weight": Role.RECURRENT,
    "blk.3.ffn_gate_inp.weight": Role.FFN,
    "blk.3.ffn_down.weight": Role.FFN | Role.WRITER,
    "blk.3.ffn_down_exps.weight": Role.FFN | Role.WRITER | Role.EXPERTS,
    "blk.3.ffn_up_shexp.weight": Role.FFN | Role.SHARED,
    "blk.3.channel_mix_value.weight": Role.FFN | Role.WRITER,
    "token_embd.weight": Role.TABLE,
    "token_embd_norm.weight": Role.POINTWISE,
    "output.weight": Role.HEAD,
    "output_norm.weight": Role.POINTWISE,
    "rope_freqs.weight": Role.NONE,
}


@pytest.mark.parametrize("name", KNOWN)
def test_roles_of_known_names(name: str) -> None:
    assert roles_of(name) == KNOWN[name]


def test_every_norm_in_a_layer_is_pointwise_and_no_product_is() -> None:
    for kind, template in TENSOR_NAMES.items():
        name = template.format(bid=7) + ".weight"
        if block_of(name) is None:
            continue
        if "norm" in kind.name.lower():
            assert roles_of(name) & Role.POINTWISE, name
        if kind in (MODEL_TENSOR.ATTN_Q, MODEL_TENSOR.FFN_UP, MODEL_TENSOR.SSM_IN):
            assert not roles_of(name) & Role.POINTWISE, name


def test_no_tensor_is_of_both_halves() -> None:
    for template in TENSOR_NAMES.values():
        roles = roles_of(template.format(bid=7) + ".weight")
        assert not (roles & MIXER and roles & Role.FFN), template


def test_every_tensor_of_a_block_is_of_one_half_or_not_known() -> None:
    """By what llama.cpp's own names say: none that sounds like one half is taken for the other."""
    for template in TENSOR_NAMES.values():
        name = template.format(bid=7) + ".weight"
        half, roles = half_of(name), roles_of(name)
        if half is Unit.ATTN:
            assert not roles & Role.FFN, name
        if half is Unit.FFN:
            assert not roles & MIXER, name
        if (
            block_of(name)
            and roles & (MIXER | Role.FFN)
            and name.startswith("blk.")
            and "vis_" not in name
        ):
            assert half is not None or ".hc_" in name, name
    assert half_of("blk.3.post_attention_norm.weight") is Unit.ATTN
    assert half_of("blk.3.post_attention_norm.weight", ("post_attention_norm",)) is Unit.FFN
    assert half_of("blk.3.something_new.weight") is half_of("output.weight") is None


def test_blocks() -> None:
    assert block_of("dec.blk.12.attn_q.weight") == ("dec.", 12)
    assert block_of("blk.012.attn_q.weight") is None
    assert block_of("output.weight") is None
    assert rename_block("enc.blk.7.attn_q.weight", 5) == "enc.blk.5.attn_q.weight"
    with pytest.raises(ValueError, match="belongs to no block"):
        rename_block("output.weight", 1)


def test_a_number_of_5000_digits_is_that_of_no_layer() -> None:
    block = block_of(f"blk.{'9' * 5000}.attn_q.weight")
    assert block is not None
    assert block[1] >= 10**17
    assert block_of("blk.123456.x") == ("", 123456)
