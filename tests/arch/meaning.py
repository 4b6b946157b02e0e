"""What is known of the metadata keys that llama.cpp reads: do they mean different layers, and then
which rule follows them? A key that is in neither table, or whose rule a row does not have, is a
finding: nobody has looked whether the layers' positions matter to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from ggprune.arch.rules import RULES, Generic
from ggprune.arch.table import ArchitectureRow, architecture_table
from ggprune.model.metadata import Value, ValueType
from tests.arch.families import PATTERN, Family, flags, u32
from tests.arch.keys import Metadata, ReadKey, changed, keys_read, metadata_of

# Rules that follow a key, any one of which is enough; {arch} and what stands before is left out.
FOLLOWED: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys((
        "block_count", "nextn_predict_layers", "leading_dense_block_count", "hash_layer_count",
        "attention.head_count", "attention.head_count_kv", "feed_forward_length",
        "expert_used_count", "expert_feed_forward_length", "swiglu_clamp_exp",
        "swiglu_clamp_shexp", "attention.rope_pattern", "attention.compress_ratios",
    ), ("generic",)),
    "attention.sliding_window_pattern": ("swa_period", "swa_array"),
    "attention.recurrent_layers": ("recurrent_interval",),
    "full_attention_interval": ("recurrent_interval",),
    "attention.indexer.types": ("shared_index", "swa_array"),  # dots3note's are its full layers
    "attention.shared_kv_layers": ("shared_kv",),
    "deepstack_mapping": ("deepstack",),
    "decoder_block_count": ("two_stacks",),
    "interleave_moe_layer_step": ("moe_step",),
    "n_deepstack_layers": ("not_set",),
    "rescale_every_n_layers": ("not_set",),
    "num_loops": ("loops",),
    "ple.layers": ("one_embedding_layer",),
    **dict.fromkeys(
        ("xielu.alpha_n", "xielu.alpha_p", "xielu.beta", "xielu.eps"), ("sliced",)
    ),
}  # fmt: skip

# Whole numbers, flags and arrays that hold for all layers alike, by what they are about.
PLAIN = {
    "shapes of all layers": (
        "attention.decay_lora_rank", "attention.gate_lora_rank", "attention.iclr_lora_rank",
        "attention.value_residual_mix_lora_rank", "attention.key_length",
        "attention.key_length_mla", "attention.kv_lora_rank", "attention.output_group_count",
        "attention.output_lora_rank", "attention.q_lora_rank", "attention.value_length",
        "attention.value_length_mla", "attention.indexer.head_count",
        "attention.indexer.block_size", "attention.indexer.local_blocks",
        "attention.indexer.key_length", "attention.indexer.kpool", "embedding_length",
        "embedding_length_out", "embedding_length_per_layer_input", "hyper_connection.count",
        "hyper_connection.low_rank", "kda.head_dim", "moe_latent_size", "shortconv.l_cache",
        "ssm.conv_kernel", "ssm.group_count", "ssm.inner_size", "ssm.state_size",
        "ssm.time_step_rank", "time_decay_extra_dim", "time_mix_extra_dim", "token_shift_count",
        "wkv.head_size", "altup.num_inputs", "altup.active_idx", "features_length",
    ),
    "shapes of windowed layers, which the rules of windows compare with layer 0's": (
        "attention.key_length_swa", "attention.value_length_swa", "rope.dimension_count",
        "rope.dimension_count_swa", "attention.sliding_window",
    ),
    "shapes of windowed layers that each layer is asked for (dots3note.cpp:82)": (
        "attention.key_length_mla_swa", "attention.value_length_mla_swa",
        "attention.kv_lora_rank_swa",
    ),
    "how experts are mixed": (
        "expert_count", "expert_chunk_feed_forward_length", "expert_gating_func",
        "expert_group_count", "expert_group_used_count", "expert_shared_count",
        "expert_shared_feed_forward_length", "expert_weights_norm", "experts_per_group",
    ),
    "how every layer computes": (
        "attention.causal", "attention.indexer.kpool_select_tail", "attention.indexer.top_k",
        "attention.relative_buckets_count", "attention.temperature_length",
        "hyper_connection.sinkhorn_iterations", "kda.safe_gate", "skip_loop_final_norm",
        "ssm.dt_b_c_rms", "swin_norm", "use_parallel_residual", "rope.dimension_sections",
        "rope.scaling.finetuned", "rope.scaling.original_context_length",
    ),
    "tokens, and what is made of the last stream": (
        "classifier.output_labels", "classifier.pooling_type", "context_length",
        "decoder_start_token_id", "pooling_type", "vocab_size",
    ),
    "of the one layer that ple.layers names": (
        "ple.conv_kernel", "ple.eos_token_id", "ple.head_offsets", "ple.head_vocab_sizes",
        "ple.heads_per_ngram", "ple.image_token_id", "ple.layer_multipliers", "ple.ngram_size",
    ),
}  # fmt: skip
ALIKE = frozenset(name for names in PLAIN.values() for name in names)

# Rows that follow a key which the graph does not use, though it is read: rwkv6qwen2.cpp.
UNUSED = {("rwkv6qwen2", "rescale_every_n_layers")}

# Architectures of which no family computes: llama.cpp reads their keys all the same.
UNGROWN = (
    *(Family(arch, "llama", arch) for arch in (
        "arwkv7", "chameleon", "llama-embed", "plm", "qwen3tts", "rwkv6qwen2",
    )),
    Family("dots3note", "deepseek32", "dots3note", {
        PATTERN: flags(*[0, 1] * 6), "{arch}.attention.indexer.types": flags(*[1, 0] * 6),
    }),
    Family("granitehybrid", "llama", "granitehybrid", {"{arch}.ssm.inner_size": u32(512)}),
    Family("hy_v4", "deepseek32", "hy_v4", {"{arch}.attention.indexer.types": flags(*[1] * 12)}),
    Family("minimax-m3", "llama", "minimax-m3", {
        "{arch}.attention.indexer.block_size": u32(8),
    }),
)  # fmt: skip

# Some keys are read only where others say so, or are missing.
OPENINGS: tuple[Mapping[str, Value | None], ...] = (
    {},
    {"{arch}.attention.sliding_window": u32(8)},
    {"{arch}.attention.recurrent_layers": None},
)


def short(template: str) -> str:
    return template.removeprefix("{arch}.")


def has_own_rule(template: str) -> bool:
    """Is the key one of some architectures, whose rows name the rule that follows it?"""
    return FOLLOWED.get(short(template), ("generic",)) != ("generic",)


def unknown_keys(family: Family, folder: Path) -> Iterator[str]:
    """Why a key that llama.cpp reads of this family could matter together with the position."""
    row = architecture_table().architectures[family.arch]
    if not isinstance(row, ArchitectureRow):
        return
    family.store_metadata(folder / "metadata.gguf")
    rules = {"generic", *_names_of(row)}
    read: dict[str, ReadKey] = {}
    for metadata in _shapes(metadata_of(folder / "metadata.gguf"), family.arch):
        read |= keys_read(metadata, folder, read)
    for template, kind in sorted(read.items()):
        name = short(template)
        if (family.arch, name) in UNUSED:
            continue
        if name in FOLLOWED and not rules & set(FOLLOWED[name]):
            needed = " or ".join(FOLLOWED[name])
            yield f"{family.arch}: {name} is read, and no rule {needed} follows it"
        elif name not in FOLLOWED and name not in ALIKE and not _is_weight(kind):
            yield f"{family.arch}: {name} is read, and nothing is known of it"


def _names_of(row: ArchitectureRow) -> Iterable[str]:
    """The names of a row's rules, and of what else in it follows a key."""
    kinds = {kind: name for name, kind in RULES.items()}
    yield from (kinds[type(rule)] for rule in row.rules if not isinstance(rule, Generic))
    if row.loops is not None:
        yield "loops"


def _shapes(metadata: Metadata, arch: str) -> Iterator[Metadata]:
    for opening in OPENINGS:
        yield changed(metadata, arch, opening)


def _is_weight(kind: ReadKey) -> bool:
    """One fraction or a name: it weighs or chooses, in all layers alike."""
    return kind.scalar in (ValueType.FLOAT32, ValueType.STRING) and not kind.is_array
