"""Random-weight models of every architecture that llama.cpp can be asked for, and of hard cases.

The 65 committed metadata files, and families that are not among them or that leave their schedules
to llama.cpp's defaults: metadata of a donor under another name, some values changed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ggprune.arch.experts import routing_of
from ggprune.arch.hparams import Illegal, n_trunk
from ggprune.arch.table import ArchitectureRow, architecture_table
from ggprune.model.cut import Cut, parse_units
from ggprune.model.gguf import read_gguf
from ggprune.model.metadata import Value, ValueType, array, scalar
from ggprune.model.model import Model, open_model
from ggprune.model.unit import Unit
from tests.conftest import FIXTURES
from tests.random_models import derive_metadata, make_random_model

METADATA = {path.stem: path for path in sorted((FIXTURES / "arch").glob("*.gguf"))}
Sets = tuple[tuple[int, ...], ...]

U32, F32, BOOL = ValueType.UINT32, ValueType.FLOAT32, ValueType.BOOL
WINDOW, PATTERN = "{arch}.attention.sliding_window", "{arch}.attention.sliding_window_pattern"
HEADS = ("{arch}.attention.head_count", "{arch}.attention.head_count_kv")
NEXTN, DENSE = "{arch}.nextn_predict_layers", "{arch}.leading_dense_block_count"
STEP = "{arch}.interleave_moe_layer_step"


RARE = re.compile(r"output\.bias|cls\.")
GROUPED = ("bailingmoe2", "deepseek2", "exaone-moe", "glm4moe")  # some of those that may be


def u32(n: int) -> Value:
    return scalar(U32, n)


def flags(*numbers: int) -> Value:
    return array(U32, numbers)


@dataclass(frozen=True)
class Family:
    """Metadata of `donor` as another architecture. None takes a key away."""

    name: str
    donor: str
    arch: str
    changes: Mapping[str, Value | None] = field(default_factory=dict)
    n_layer: int = 12
    sets: Sets = ()  # instead of the usual ones
    frozen: bool = False  # no layer but trailing ones can be removed

    def make(self, folder: Path, *, sidecars: bool = False) -> Model:
        """Build the model in `folder`."""
        metadata = self.store_metadata(folder / "metadata.gguf")
        return open_model(make_random_model(metadata, folder / "in.gguf", sidecars=sidecars))

    def make_plain(self, folder: Path) -> Model:
        """Without tensors that few files of the architecture have."""
        metadata = self.store_metadata(folder / "metadata.gguf")
        return open_model(make_random_model(metadata, folder / "in.gguf", without=RARE))

    def with_experts(self) -> Family:
        """With enough experts that some may leave, in groups where the architecture has them."""
        more = {"{arch}.expert_count": 16, "{arch}.expert_used_count": 4}
        if self.arch in GROUPED:
            more |= {"{arch}.expert_group_count": 4, "{arch}.expert_group_used_count": 2}
        return replace(self, changes={**self.changes, **{k: u32(n) for k, n in more.items()}})

    def store_metadata(self, path: Path) -> Path:
        """Write a file without tensors."""
        file = read_gguf(METADATA[self.donor])
        old = str(file.metadata["general.architecture"].decode())
        n_old = file.metadata[f"{old}.block_count"].decode()
        changes: dict[str, Value | None] = {}
        if self.n_layer != n_old:
            for key, value in file.metadata.items():
                if value.array_len == n_old and key.startswith(f"{old}."):
                    changes["{arch}" + key.removeprefix(old)] = None
            changes["{arch}.block_count"] = u32(self.n_layer)
        return derive_metadata(METADATA[self.donor], self.arch, changes | dict(self.changes), path)

    def all_sets(self, model: Model) -> Sets:
        """An early layer, two apart, a run, a period of four, the last, the first, a scattered set,
        and all MTP blocks with a layer of the trunk."""
        if self.sets:
            return self.sets
        last, mtp = n_trunk(model) - 1, tuple(range(n_trunk(model), model.n_layer))
        usual = ((3, 6), (0,), (4, 5, 6, 7), (3,), (4, 5, 6), (last,), (1, 2, 5, last))
        return (*usual, (3, *mtp), mtp) if mtp else usual


def half_shifts(model: Model) -> tuple[Cut, ...]:
    """Runs from an FFN to an attention: the first, a long one, the last, several beside whole
    layers."""
    n = n_trunk(model)
    texts = ("0f-1a", "4f-6a", f"{n - 2}f-{n - 1}a", "1,3f-4a,6f-8a")
    return tuple(parse_units(text, model.n_layer) for text in texts)


def alone_sets(model: Model) -> dict[Unit, tuple[Cut, ...]]:
    """Attentions alone, and FFNs alone: the first, the last, several beside others and beside runs;
    both kinds count as attentions. Empty where the architecture has no such layers."""
    row = architecture_table().architectures.get(model.arch)
    if not isinstance(row, ArchitectureRow) or (row.alone is None and model.arch != "baichuan"):
        return {}
    last = n_trunk(model) - 1
    texts = {
        Unit.ATTN: ("3a", "0a", f"{last}a", "2a,5a-6a", "3a-5a,7f,8", "1a,4f"),
        Unit.FFN: ("3f", f"0f,{last}f", "2f,5f-6f", "3f-5f,8"),
    }
    return {
        unit: tuple(parse_units(text, model.n_layer) for text in said)
        for unit, said in texts.items()
    }


def expert_sets(model: Model) -> tuple[Cut, ...]:
    """A quarter or a half of the experts, others in every layer; the same beside dropped layers."""
    row = architecture_table().architectures.get(model.arch)
    if not isinstance(row, ArchitectureRow) or row.experts is None:
        return ()
    try:
        routing = routing_of(model, row)
    except Illegal:
        return ()
    n, n_group = routing.n_expert, routing.n_group
    size = n // n_group

    def some(count: int, shift: int) -> Cut:
        """As many of every group."""
        per = range(max(count // n_group, 1))
        return Cut.of_experts({
            layer: [g * size + (layer * shift + i) % size for g in range(n_group) for i in per]
            for layer in routing.layers
        })  # fmt: skip

    return (some(n // 4, 1), some(n // 2, 3), some(n // 4, 1) | Cut.of((3, 6)))


def windows(size: int = 8, pattern: Value | None = None) -> dict[str, Value | None]:
    return {WINDOW: u32(size), PATTERN: pattern}


def head_size(n: int) -> dict[str, Value | None]:
    keys = ("attention.key_length", "attention.value_length", "rope.dimension_count")
    return {"{arch}." + key + end: u32(n) for key in keys for end in ("", "_swa")}


def experts(n: int, **more: int) -> dict[str, Value | None]:
    keys = {"expert_count": n, "expert_used_count": min(n, 1), **more}
    return {"{arch}." + key: u32(value) for key, value in keys.items()}


RWKV: dict[str, Value | None] = {
    "{arch}.wkv.head_size": u32(64),
    "{arch}.attention.layer_norm_epsilon": scalar(F32, 1e-5),
    **{key: u32(0) for key in HEADS},
}
RWKV6 = RWKV | {
    "{arch}.time_mix_extra_dim": u32(16),
    "{arch}.time_decay_extra_dim": u32(16),
}
RWKV7 = RWKV | {
    f"{{arch}}.attention.{name}_lora_rank": u32(16)
    for name in ("decay", "iclr", "value_residual_mix", "gate")
}
GEMMA4 = (
    windows(8, array(BOOL, [n % 4 != 3 for n in range(12)]))
    | head_size(128)
    | {
        "{arch}.attention.key_length_swa": u32(64),
        "{arch}.attention.value_length_swa": u32(64),
        "{arch}.rope.dimension_count_swa": u32(64),
        "{arch}.embedding_length_per_layer_input": u32(32),
    }
)
XIELU: dict[str, Value | None] = {
    f"xielu.{name}": array(F32, [0.3 + 0.05 * n for n in range(12)])
    for name in ("alpha_n", "alpha_p", "beta", "eps")
}
T5: dict[str, Value | None] = {
    "{arch}.attention.relative_buckets_count": u32(32),
    "{arch}.decoder_block_count": u32(10),
    "{arch}.decoder_start_token_id": u32(0),
}

MOE = experts(
    4,
    expert_feed_forward_length=64,
    expert_shared_feed_forward_length=64,
    expert_shared_count=1,
    expert_chunk_feed_forward_length=64,
    experts_per_group=1,
    expert_gating_func=2,
) | {
    STEP: u32(1),
    "{arch}.expert_weights_scale": scalar(F32, 1.0),
    "{arch}.expert_group_scale": scalar(F32, 0.05),
}

# What a family leaves to a default is taken away, or a schedule is made harder.
HAND_MADE = (
    Family("gemma2", "llama", "gemma2", windows()),
    Family("gemma2 46 layers", "llama", "gemma2", windows() | head_size(64), 46),
    Family("gemma3 by period", "gemma3", "gemma3", windows()),
    Family("gemma3 period 4", "gemma3", "gemma3", windows(8, u32(4))),
    Family("gemma3 with other RoPE in windows", "gemma3", "gemma3", {
        "{arch}.rope.dimension_count_swa": u32(64)
    }, sets=((0,), (0, 1), (3, 6), (0, 1, 2), (11,))),
    Family("gemma3 by period with other RoPE", "gemma3", "gemma3", windows(8, u32(4)) | {
        "{arch}.rope.dimension_count_swa": u32(64)
    }, sets=((0, 1, 2), (0, 1, 2, 3), (0,), (3, 6))),
    Family("llama with experts by layer", "llama", "llama", {
        "{arch}.expert_used_count": flags(2, 1, 2, 1, 1, 2, 2, 1, 1, 2, 1, 1)
    }, sets=((0,), (0, 1), (3, 6), (1, 2, 5), (11,))),
    Family("gemma3 62 layers", "gemma3", "gemma3", windows() | head_size(64), 62),
    Family("llama without experts", "llama", "llama", experts(0), sets=((3, 6), (0,), (4, 5, 6))),
    Family("gemma3n", "gemma3", "gemma3n", windows() | {
        "{arch}.altup.active_idx": u32(0), "{arch}.altup.num_inputs": u32(4),
        "{arch}.embedding_length_per_layer_input": u32(256),
    }, 26, sets=((20, 23), (20,), (21, 22), (25,), (20, 21, 22, 23, 24, 25), (3,))),
    Family("gemma4", "gemma3", "gemma4", GEMMA4),
    Family("gemma4 shared KV", "gemma3", "gemma4", GEMMA4 | {
        "{arch}.attention.shared_kv_layers": u32(4)
    }, sets=((3,), (8, 10), (0, 1), (8, 9, 10, 11), (6,), (6, 8, 9, 10, 11), (11,))),
    Family("step35", "llama", "step35", windows(8, array(BOOL, [n % 4 != 0 for n in range(12)])) | {
        DENSE: u32(3), "{arch}.expert_shared_feed_forward_length": u32(64),
    } | experts(4, expert_feed_forward_length=64)),
    Family("apertus", "llama", "apertus", XIELU),
    Family("command-r 66 layers", "llama", "command-r", {}, 66),
    Family("exaone4", "llama", "exaone4"),
    Family("exaone4 64 layers", "llama", "exaone4", windows(), 64, frozen=True),
    Family("baichuan 32 layers", "baichuan", "baichuan", {}, 32),
    Family("baichuan 40 layers", "baichuan", "baichuan", {}, 40),
    Family("rwkv6", "llama", "rwkv6", RWKV6),
    Family("rwkv6 halved", "llama", "rwkv6", RWKV6 | {
        "{arch}.rescale_every_n_layers": u32(3)
    }, frozen=True),
    Family("rwkv7", "llama", "rwkv7", RWKV7),
    Family("t5", "llama", "t5", T5, sets=(
        (0,), (3, 6), (12,), (0, 1, 12, 13), (11, 21), (5, 6, 7), (5, 15),
    )),
    Family("minicpm by default", "minicpm", "minicpm", {"{arch}.residual_scale": None}),
    Family("smollm3", "llama", "smollm3", experts(0)),
    Family("llama4", "llama", "llama4", {
        WINDOW: None, PATTERN: None, STEP: u32(2),
    } | experts(4, expert_feed_forward_length=128)),
    Family("qwen35moe by interval", "qwen35moe", "qwen35moe", {
        "{arch}.attention.recurrent_layers": None
    }),
    Family("qwen35moe with MTP", "qwen35moe", "qwen35moe", {NEXTN: u32(1)}),
    Family("hy_v3 with MTP", "qwen3moe", "hy_v3", {NEXTN: u32(2)}),
    Family("hy_v3", "qwen3moe", "hy_v3", sets=((3, 6), (0,), (4, 5, 6))),
    Family("glm4moe with MTP", "qwen3moe", "glm4moe", {NEXTN: u32(1)}),
    Family("glm-dsa", "deepseek32", "glm-dsa", {
        "{arch}.attention.indexer.types": flags(1, 0, 0, 1, 0, 0, 1, 0, 0, 0, 1, 0)
    }, sets=((1, 2), (4, 7), (3, 4, 5), (0, 1, 2), (3,), (10, 11))),
    Family("cohere2", "llama", "cohere2", windows()),
    Family("cohere2moe by period", "cohere2moe", "cohere2moe", windows()),
    Family("olmo2 by period", "olmo2", "olmo2", windows()),
    Family("mellum by period", "mellum", "mellum", windows()),
    Family("exaone-moe by period", "exaone-moe", "exaone-moe", windows()),
    Family("gpt-oss", "qwen3moe", "gpt-oss", windows()),
    Family("afmoe by period", "afmoe", "afmoe", windows()),
    Family("smallthinker by period", "smallthinker", "smallthinker", windows()),
    Family("laguna", "deepseek", "laguna", windows()),
    Family("deepseek with dense layers", "deepseek", "deepseek", {DENSE: u32(3)}),
    Family("deepseek2", "deepseek32", "deepseek2"),
    Family("glm4moe", "llama", "glm4moe"),
    Family("dots1", "xverse", "dots1", MOE),
    Family("ernie4_5-moe", "xverse", "ernie4_5-moe", MOE),
    Family("ernie4_5-moe by step", "xverse", "ernie4_5-moe", MOE | {STEP: u32(2)}),
    Family("ernie4_5-moe by step behind dense layers", "xverse", "ernie4_5-moe", MOE | {
        STEP: u32(3), DENSE: u32(4),
    }, sets=((1, 2, 3), (6, 7, 8), (0,), (4, 5), (5,), (11,), (1, 2, 6, 9))),
    Family("grovemoe", "xverse", "grovemoe", MOE),
    Family("bailingmoe3", "kimi-linear", "bailingmoe3", {"{arch}.kda.safe_gate": scalar(BOOL, 1)}),
)  # fmt: skip


# Architectures that compute with a donor's metadata as it is.
RENAMED = {
    "llama": "arctic hunyuan-moe olmoe qwen2moe",
    "deepseek": "bailingmoe deepseek2-ocr",
    "xverse": (
        "bitnet bloom codeshell deci ernie4_5 gptneox jais llada maincoder mpt nemotron "
        "orion pangu-embedded phi3 plamo plamo3 qwen qwen3 seed_oss starcoder"
    ),
    "qwen35moe": "falcon-h1 mamba2 qwen35 qwen3next qwen3vlmoe",
    "lfm2moe": "lfm2",
    "gemma3": "mimo2",
    "granitemoe": "muse-glimmer talkie",
    "nemotron_h": "nemotron_h_moe",
}


def fixture_family(name: str) -> Family:
    """A committed metadata file as it is."""
    file = read_gguf(METADATA[name])
    arch = str(file.metadata["general.architecture"].decode())
    return Family(name, name, arch, n_layer=int(file.metadata[f"{arch}.block_count"].decode()))


FAMILIES = (
    *(fixture_family(name) for name in METADATA),
    *(Family(arch, donor, arch) for donor, names in RENAMED.items() for arch in names.split()),
    *HAND_MADE,
)
