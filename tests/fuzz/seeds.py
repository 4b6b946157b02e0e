"""Right inputs to begin with: small models of all architectures, and what belongs to a model."""

from __future__ import annotations

import re
import struct
from dataclasses import fields
from functools import cache
from pathlib import Path

from ggprune.arch import hparams
from ggprune.arch.rules import RULES, Rule
from ggprune.arch.table import ArchitectureRow, architecture_table
from ggprune.model.model import Model, open_model
from tests.fuzz.gguf_parts import ARR, F32, I32, STR, Part, Parts, numbers, text

ARCHS = Path(__file__).parents[2] / "fixtures" / "arch"  # metadata alone
TWO_STACKS = ("t5", "t5encoder")
PLAIN_TENSORS = (
    "blk.{i}.attn_q.weight", "blk.{i}.attn_q.bias", "blk.{i}.attn_q.scale", "output.weight",
    "blk.{i}.attn_q_norm.weight", "blk.{i}.attn_q_a.weight", "blk.{i}.attn_output.weight",
    "blk.{i}.attn_sinks.weight", "blk.{i}.ffn_up_exps.weight", "rope_freqs.weight",
    "per_layer_token_embd.weight", "per_layer_model_proj.weight", "enc.blk.{i}.attn_q.weight",
    "enc.blk.{i}.attn_rel_b.weight", "dec.blk.{i}.attn_q.weight", "dec.blk.{i}.attn_rel_b.weight",
    "dec.blk.{i}.cross_attn_rel_b.weight",
)  # fmt: skip
GENERAL_KEYS = (
    "general.name", "general.architecture", "general.alignment", "general.file_type",
    "general.parameter_count", "general.size_label", "general.tensor_extra.name",
    "general.tensor_extra.a", "general.tensor_extra.b", "ggprune.dropped_layers",
    "ggprune.history", "ggprune.version", "ggprune.source.fingerprint",
    "ggprune.source.block_count", "ggprune.source.architecture", "tokenizer.ggml.pre",
    "tokenizer.chat_template", "split.no", "split.count", "split.tensors.count",
)  # fmt: skip
OTHER_KEYS = (
    "block_count", "decoder_block_count", "expert_count", "expert_used_count", "embedding_length",
    "vocab_size", "ple.layers", "ple.x", "attention.indexer.top_k", "context_length", "logit_scale",
    "residual_scale", "expert_gating_func", "num_loops", "attention.key_length_swa", "mystery",
    "rope.dimension_count", "rope.dimension_count_swa",
)  # fmt: skip
_KEY = re.compile(r"(\{arch\}|[a-z_]+)\.[a-z_.]+")


@cache
def known_keys() -> tuple[str, ...]:
    """All templates of keys that the project's rules name, and those that it reads besides."""
    named = [value for value in vars(hparams.Key).values() if _is_key(value)]
    for rule in _all_rules():
        named += [word for word in _words_of(rule) if _is_key(word)]
    lists = (hparams.PER_LAYER_ARRAYS, hparams.PREFIX_COUNTS, hparams.OTHER_ARRAYS)
    named += [key for keys in lists for key in keys] + [f"{{arch}}.{key}" for key in OTHER_KEYS]
    return tuple(dict.fromkeys([*named, *GENERAL_KEYS]))


def own_keys() -> tuple[str, ...]:
    return tuple(key for key in known_keys() if key.startswith("{arch}"))


def _all_rules() -> list[Rule]:
    rows = architecture_table().architectures.values()
    return [rule for row in rows if isinstance(row, ArchitectureRow) for rule in row.rules]


def _words_of(rule: Rule) -> list[str]:
    """All texts that the row of a rule states."""
    assert type(rule) in RULES.values()
    stated = [getattr(rule, field.name) for field in fields(rule)]
    return [word for x in stated for word in (x if isinstance(x, tuple) else (x,)) if word]


def _is_key(word: object) -> bool:
    return isinstance(word, str) and _KEY.fullmatch(word) is not None and "weight" not in word


@cache
def model_seeds() -> tuple[Parts, ...]:
    """Every architecture with a few tensors in each layer; without a vocabulary."""
    paths = sorted(ARCHS.glob("*.gguf"))
    return (*(_small(open_model(path)) for path in paths), llama(6), _long_llama())


def ruled_seeds() -> tuple[Parts, ...]:
    """Of architectures that have rules."""
    rows = architecture_table().architectures
    ruled = {name for name, row in rows.items() if isinstance(row, ArchitectureRow) and row.rules}
    return tuple(seed for seed in model_seeds() if seed.arch.decode() in ruled)


def _small(model: Model) -> Parts:
    parts, wanted = Parts(), {key.replace("{arch}", model.arch) for key in known_keys()}
    for key, value in model.metadata.items():
        if key in wanted or (value.type == ARR and not key.startswith("tokenizer.")):
            parts.values.append(Part(key.encode(), int(value.type), bytes(value.raw)))
    parts.add("token_embd.weight", 4, 2)
    row = architecture_table().architectures.get(model.arch)
    rules = row.rules if isinstance(row, ArchitectureRow) else ()
    words = [word for rule in rules for word in _words_of(rule) if isinstance(word, str)]
    own = [word for word in words if word.endswith((".weight", ".scale", ".bias"))]
    for prefix in ("enc.", "dec.") if model.arch in TWO_STACKS else ("",):
        for i in range(model.fields.integer(f"{model.arch}.block_count")):
            named = ("attn_q.weight", "ffn_down.weight", *own)
            for name in dict.fromkeys(name.rsplit("blk.", 1)[-1] for name in named):
                parts.add(f"{prefix}blk.{i}.{name}", 4)
    if any("Slices" in type(rule).__name__ for rule in rules):
        parts.add("per_layer_token_embd.weight", 2 * parts.n_layer, 3)
        parts.add("per_layer_model_proj.weight", 2, 2 * parts.n_layer)
    parts.add("output.weight", 4, 2)
    return parts


def llama(n_layer: int) -> Parts:
    parts = Parts()
    parts.put_text(b"general.architecture", b"llama")
    parts.put_u32(b"llama.block_count", n_layer)
    for i in range(n_layer):
        parts.add(f"blk.{i}.attn_q.weight", 8)
    return parts


def _long_llama() -> Parts:
    """Pruned before, and with everything that is said about single tensors."""
    parts = llama(5)
    names = b"".join(text(b"blk.%d.attn_q.weight" % i) for i in range(5))
    parts.put(b"general.tensor_extra.name", ARR, struct.pack("<IQ", STR, 5) + names)
    parts.put(b"general.tensor_extra.a", ARR, numbers(F32, *range(5)))
    parts.put(b"ggprune.dropped_layers", ARR, numbers(I32, 1))
    parts.put_text(b"ggprune.source.fingerprint", b"f" * 64)
    record = b'{"ggprune.dropped_layers": [0], "ggprune.source.fingerprint": "e"}'
    parts.put(b"ggprune.history", ARR, struct.pack("<IQ", STR, 1) + text(record))
    parts.put_u32(b"general.parameter_count", 40)
    parts.put_text(b"general.size_label", b"8x7B")
    parts.put_u32(b"llama.expert_count", 8)
    return parts


def companions() -> tuple[Parts, ...]:
    """An importance matrix, a LoRA and a control vector of a llama of 6 layers."""
    imatrix, lora, vector = Parts(), Parts(), Parts()
    imatrix.put_text(b"general.type", b"imatrix")
    imatrix.put(b"imatrix.datasets", ARR, struct.pack("<IQ", STR, 1) + text(b"wiki"))
    imatrix.put_u32(b"imatrix.chunk_count", 10)
    lora.put_text(b"general.architecture", b"llama")
    lora.put_text(b"general.type", b"adapter")
    lora.put_text(b"adapter.type", b"lora")
    lora.put(b"adapter.lora.alpha", F32, struct.pack("<f", 16))
    vector.put_text(b"general.architecture", b"controlvector")
    vector.put_text(b"controlvector.model_hint", b"llama")
    vector.put(b"controlvector.layer_count", I32, struct.pack("<i", 5))
    for i in range(6):
        imatrix.add(f"blk.{i}.attn_q.weight.in_sum2", 8, 1)
        imatrix.add(f"blk.{i}.attn_q.weight.counts", 1, 1)
        lora.add(f"blk.{i}.attn_q.weight.lora_a", 4, 2)
        lora.add(f"blk.{i}.attn_q.weight.lora_b", 2, 4)
    for i in range(1, 6):
        vector.add(f"direction.{i}", 8)
    for tensor in imatrix.tensors:
        n = len(tensor.data) // 4
        tensor.data = struct.pack(f"<{n}f", *(float(i + 1) for i in range(n)))
    return imatrix, lora, vector


def dat(n_entry: int) -> bytes:
    """A legacy importance matrix."""
    out = [struct.pack("<i", n_entry)]
    for i in range(n_entry):
        name = f"blk.{i}.attn_q.weight".encode()
        out.append(struct.pack("<i", len(name)) + name + struct.pack("<ii4f", 3, 4, 1, 2, 3, 4))
    return b"".join(out) + struct.pack("<ii", 10, 4) + b"wiki"


def dat_counts(data: bytes) -> list[int]:
    """Where the numbers of such a file stand."""
    places, at = [0], 4
    for _ in range(struct.unpack_from("<i", data)[0]):
        (length,) = struct.unpack_from("<i", data, at)
        places += [at, at + 4 + length, at + 8 + length]
        at += 4 + length + 8 + 16
    return [*places, at, at + 4]
