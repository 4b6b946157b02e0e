"""Metadata keys that follow the layers, as templates: `{arch}` stands for the architecture's name.

Knows names only. `hparams` reads what is stated under them, `rules` say how it changes.
"""

from __future__ import annotations

BLOCK_COUNT = "{arch}.block_count"
DECODER_BLOCK_COUNT = "{arch}.decoder_block_count"
NEXTN = "{arch}.nextn_predict_layers"
EMBEDDING_LENGTH = "{arch}.embedding_length"
FEED_FORWARD_LENGTH = "{arch}.feed_forward_length"
HEAD_COUNT = "{arch}.attention.head_count"
HEAD_COUNT_KV = "{arch}.attention.head_count_kv"
KEY_LENGTH = "{arch}.attention.key_length"
VALUE_LENGTH = "{arch}.attention.value_length"
HEAD_SIZES = (KEY_LENGTH, VALUE_LENGTH)
SLIDING_WINDOW = "{arch}.attention.sliding_window"
SWA_PATTERN = "{arch}.attention.sliding_window_pattern"
ROPE_PATTERN = "{arch}.attention.rope_pattern"
RECURRENT = "{arch}.attention.recurrent_layers"
INTERVAL = "{arch}.full_attention_interval"
DEEPSTACK = "{arch}.deepstack_mapping"
INDEXER_TYPES = "{arch}.attention.indexer.types"
INDEXER_TOP_K = "{arch}.attention.indexer.top_k"
SHARED_KV = "{arch}.attention.shared_kv_layers"
MOE_STEP = "{arch}.interleave_moe_layer_step"

# One entry per layer where they are arrays; a scalar holds for all layers. Some are as long as the
# trunk, some as all blocks: both lengths are followed.
PER_LAYER_ARRAYS = (
    HEAD_COUNT, HEAD_COUNT_KV, FEED_FORWARD_LENGTH, "{arch}.expert_used_count",
    "{arch}.expert_feed_forward_length", "{arch}.swiglu_clamp_exp", "{arch}.swiglu_clamp_shexp",
    SWA_PATTERN, RECURRENT, INDEXER_TYPES, ROPE_PATTERN, "{arch}.attention.compress_ratios",
    "{arch}.activation_sparsity_scale",
)  # fmt: skip

# llama.cpp reads these without looking at their length, so they may be longer than the model.
UNCHECKED_ARRAYS = (SWA_PATTERN, DEEPSTACK, "{arch}.attention.compress_ratios")

# The first k layers differ from the rest: k falls by the number of dropped layers among them.
PREFIX_COUNTS = ("{arch}.leading_dense_block_count", "{arch}.hash_layer_count")

# Arrays whose length has nothing to do with the layers, whatever it happens to be.
OTHER_ARRAYS = ("{arch}.rope.dimension_sections", "{arch}.classifier.output_labels")
