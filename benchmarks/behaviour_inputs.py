"""The files that the command lines of behaviour_cases.txt are given, made in one folder.

Needs a tree's fixtures, numpy and the gguf package. Knows nothing of ggprune's code: what is made
here stays the same whatever happens to it.
"""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import gguf
import numpy as np
from gguf.constants import GGUFValueType
from numpy.typing import NDArray

Scalar = int | float | bool | str
Setting = tuple[GGUFValueType, Scalar | Sequence[Scalar]]  # of an array: the type of its elements

U32, BOOL = GGUFValueType.UINT32, GGUFValueType.BOOL
N_LAYER, N_MATRIX_COLUMN = 9, 256  # of fixtures/tiny.gguf
MATRICES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
COPIED = (
    "tiny.gguf", "calibration.txt", "evaluation.txt",
    "tasks/hellaswag.txt", "tasks/winogrande.csv", "tasks/multiple-choice.bin",
)  # fmt: skip


@dataclass(frozen=True)
class Derived:
    """The metadata of `donor` as architecture `arch`, with some values set."""

    donor: str
    arch: str
    changes: Mapping[str, Setting] = field(default_factory=dict)


WINDOW, PATTERN = "attention.sliding_window", "attention.sliding_window_pattern"
DERIVED = {
    "gemma2": Derived("llama", "gemma2", {WINDOW: (U32, 8)}),
    "gemma3-period-4": Derived("gemma3", "gemma3", {WINDOW: (U32, 8), PATTERN: (U32, 4)}),
    "gemma3n": Derived("gemma3", "gemma3n", {WINDOW: (U32, 8), "block_count": (U32, 26)}),
    "gemma4-shared": Derived("gemma3", "gemma4", {
        WINDOW: (U32, 8), PATTERN: (BOOL, [n % 4 != 3 for n in range(12)]),
        "attention.shared_kv_layers": (U32, 4),
    }),
    "glm4moe-mtp": Derived("qwen3moe", "glm4moe", {
        "nextn_predict_layers": (U32, 2), "leading_dense_block_count": (U32, 3),
    }),
    "qwen3next": Derived("qwen35moe", "qwen3next"),
    "t5": Derived("llama", "t5", {"decoder_block_count": (U32, 12)}),
    "rwkv6": Derived("llama", "rwkv6"),
    "kimi-k3": Derived("llama", "kimi-k3"),
    "nonesuch": Derived("llama", "nonesuch"),
}  # fmt: skip


def make_inputs(fixtures: Path, folder: Path) -> None:
    """Fill `folder`, which is empty."""
    for name in COPIED:
        shutil.copyfile(fixtures / name, folder / Path(name).name)
    for name in ("calibration", "evaluation"):
        text = (folder / f"{name}.txt").read_text("utf-8")
        (folder / f"{name}-short.txt").write_text(text[:3000], "utf-8")
    make_models(fixtures / "arch", folder / "arch")
    make_shards(folder / "tiny.gguf", folder / "split", 3)
    make_companions(folder)
    make_wrong(folder, fixtures / "arch")
    make_texts(folder)


def make_models(headers: Path, folder: Path) -> None:
    """A model of every architecture in `headers`, and the derived ones, with toy tensors."""
    folder.mkdir()
    for path in sorted(headers.glob("*.gguf")):
        write_model(path, folder / path.name)
    for name, derived in DERIVED.items():
        donor = headers / f"{derived.donor}.gguf"
        write_model(donor, folder / f"{name}.gguf", derived.arch, derived.changes)


def write_model(
    header: Path,
    out: Path,
    arch: str | None = None,
    changes: Mapping[str, Setting] | None = None,
) -> None:
    """Metadata of `header`, and eight numbers for each tensor that the architecture has."""
    reader = gguf.GGUFReader(header)
    donor = str(reader.fields["general.architecture"].contents())
    arch = arch or donor
    settings = {
        (arch + key[len(donor) :] if key.startswith(f"{donor}.") else key): setting
        for key, setting in settings_of(reader)
    }
    settings["general.architecture"] = (GGUFValueType.STRING, arch)
    before = settings[f"{arch}.block_count"][1]
    settings |= {f"{arch}.{key}": s for key, s in (changes or {}).items()}
    n_layer = settings[f"{arch}.block_count"][1]
    assert isinstance(n_layer, int)
    if n_layer != before:  # what is said layer by layer does not fit any more
        settings = {k: s for k, s in settings.items()
                    if not (isinstance(s[1], list) and len(s[1]) == before)}  # fmt: skip
    names = tensor_names(arch, n_layer)
    write(out, settings, {n: np.full(8, i, np.float32) for i, n in enumerate(names)})


def settings_of(reader: gguf.GGUFReader) -> Iterator[tuple[str, Setting]]:
    for key, value in reader.fields.items():
        if not key.startswith("GGUF."):
            yield key, (value.types[-1], value.contents())


def tensor_names(arch: str, n_layer: int) -> list[str]:
    """As the gguf package has them; an architecture that it does not know has llama's."""
    by_name = {name: key for key, name in gguf.MODEL_ARCH_NAMES.items()}
    known = by_name.get(arch, gguf.MODEL_ARCH.LLAMA)
    templates = [gguf.TENSOR_NAMES[tensor] for tensor in gguf.MODEL_TENSORS[known]]
    outside = [name for name in templates if "{bid}" not in name]
    inside = [name for name in templates if "{bid}" in name]
    blocks = [name.format(bid=layer) for layer in range(n_layer) for name in inside]
    return [f"{name}.weight" for name in (*outside, *blocks)]


def write(
    out: Path, settings: Mapping[str, Setting], tensors: Mapping[str, NDArray[np.float32]]
) -> None:
    """A GGUF file with exactly these settings and tensors."""
    writer = gguf.GGUFWriter(out, "")
    writer.kv_data[0].clear()
    for key, (kind, value) in settings.items():
        if isinstance(value, list):
            writer.add_key_value(key, value, GGUFValueType.ARRAY, sub_type=kind)
        else:
            writer.add_key_value(key, value, kind)
    for name, data in tensors.items():
        writer.add_tensor(name, data)
    finish(writer)


def finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def make_shards(source: Path, folder: Path, n_shard: int) -> None:
    """About equal numbers of tensors; all metadata is in the first, as llama-gguf-split has it."""
    folder.mkdir()
    reader = gguf.GGUFReader(source)
    step = -(-len(reader.tensors) // n_shard)
    for i in range(n_shard):
        writer = gguf.GGUFWriter(folder / f"tiny-{i + 1:05}-of-{n_shard:05}.gguf", "")
        writer.kv_data[0].clear()
        for key, (kind, value) in settings_of(reader) if i == 0 else ():
            array = GGUFValueType.ARRAY if isinstance(value, list) else None
            writer.add_key_value(key, value, array or kind, sub_type=kind if array else None)
        writer.add_uint16("split.no", i)
        writer.add_uint16("split.count", n_shard)
        writer.add_int32("split.tensors.count", len(reader.tensors))
        for tensor in reader.tensors[i * step : (i + 1) * step]:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        finish(writer)


def make_companions(folder: Path) -> None:
    """Importance matrices in both formats, a LoRA adapter, a control vector: for tiny.gguf."""
    names = [f"blk.{n}.{part}.weight" for n in range(N_LAYER) for part in MATRICES]
    rng = np.random.default_rng(1)
    sums = {name: rng.gamma(1.0, 9.0, N_MATRIX_COLUMN).astype(np.float32) for name in names}
    parts: dict[str, NDArray[np.float32]] = {}
    for name, values in sums.items():
        parts |= {f"{name}.in_sum2": values, f"{name}.counts": np.array([9], np.float32)}
    string = GGUFValueType.STRING
    about: dict[str, Setting] = {
        "general.type": (string, "imatrix"), "imatrix.datasets": (string, ["calibration.txt"]),
        "imatrix.chunk_count": (U32, 9), "imatrix.chunk_size": (U32, 512),
    }  # fmt: skip
    write(folder / "imatrix.gguf", about, parts)
    few = {name: data for name, data in parts.items() if "blk.7.ffn_down" not in name}
    write(folder / "imatrix-hole.gguf", about, few)
    (folder / "imatrix.dat").write_bytes(legacy_imatrix(sums))
    pairs = [f"blk.{n}.attn_q.weight.lora_{ab}" for n in (1, 3, 4, 8) for ab in "ab"]
    adapter: dict[str, Setting] = {
        "general.type": (string, "adapter"), "general.architecture": (string, "llama"),
        "adapter.type": (string, "lora"),
    }  # fmt: skip
    write(folder / "lora.gguf", adapter, numbered(pairs))
    gemma = adapter | {"general.architecture": (string, "gemma")}
    write(folder / "lora-gemma.gguf", gemma, numbered(pairs))
    control: dict[str, Setting] = {
        "general.architecture": (string, "controlvector"),
        "controlvector.model_hint": (string, "llama"), "controlvector.layer_count": (U32, 8),
    }  # fmt: skip
    write(folder / "control.gguf", control, numbered([f"direction.{i}" for i in range(1, 9)]))
    write(folder / "deeper.gguf", {}, numbered(["blk.9.ffn_up.weight.in_sum2"]))


def numbered(names: Sequence[str]) -> dict[str, NDArray[np.float32]]:
    return {name: np.array([i, i + 0.5], np.float32) for i, name in enumerate(names)}


def legacy_imatrix(sums: Mapping[str, NDArray[np.float32]], n_call: int = 3) -> bytes:
    entries = [struct.pack("<i", len(sums))]
    for name, values in sums.items():
        raw = name.encode()
        entries.append(struct.pack(f"<i{len(raw)}sii", len(raw), raw, n_call, len(values)))
        entries.append(values.tobytes())
    return b"".join([*entries, struct.pack("<ii4s", 11, 4, b"text")])


def make_wrong(folder: Path, headers: Path) -> None:
    """What must be refused."""
    whole = (folder / "tiny.gguf").read_bytes()
    (folder / "cut.gguf").write_bytes(whole[:50_000])
    (folder / "short-by-one.gguf").write_bytes(whole[:-1])
    (folder / "version-1.gguf").write_bytes(struct.pack("<4sIII", b"GGUF", 1, 0, 0) + bytes(64))
    (folder / "version-9.gguf").write_bytes(b"GGUF" + struct.pack("<I", 9) + whole[8:])
    (folder / "text.gguf").write_text("this is no model")
    (folder / "empty.gguf").write_bytes(b"")
    (folder / "empty.txt").write_text("")
    (folder / "tiny-text.txt").write_text("too short")
    (folder / "latin.txt").write_bytes(b"caf\xe9 " * 1000)
    (folder / "taken.gguf").write_text("mine")
    (folder / "broken.json").write_text('{"format": 1, ')
    (folder / "other.json").write_text('{"some": "document"}')
    (folder / "alias.gguf").symlink_to("tiny.gguf")
    (folder / "foreign.dat").write_bytes(struct.pack("<ii3siif", 1, 3, b"foo", 1, 1, 1.0))
    lone = folder / "lone"
    lone.mkdir()
    shutil.copyfile(headers / "llama.gguf", folder / "header.gguf")
    shutil.copyfile(folder / "split" / "tiny-00002-of-00003.gguf", lone / "x-00002-of-00003.gguf")


def make_texts(folder: Path) -> None:
    """Rules for types, prompts, tasks of lm-eval, and the script that is a terminal."""
    shutil.copyfile(Path(__file__).with_name("behaviour_terminal.py"), folder / "terminal.py")
    (folder / "rules.txt").write_text("attn_k=q6_k\nffn_gate=q5_k")
    (folder / "rules-wrong.txt").write_text("attn_k=q6_k nonsense")
    (folder / "prompts.txt").write_text("3 x 4 =\\t12\nSpell cat:\nSay it again: a b c\n")
    rows = [
        {"q": f"{a} x 3 =", "c": [str(3 * a), str(3 * a + 1)], "gold": int(a == 3)}
        for a in range(2, 10)
    ]
    (folder / "table.jsonl").write_text("\n".join(map(json.dumps, rows)))
    shared = "dataset_path: json\ndataset_kwargs: {data_files: {test: table.jsonl}}\n"
    shared += "test_split: test\ndoc_to_text: '{{q}}'\n"
    (folder / "choose.yaml").write_text(
        f"task: choose\n{shared}output_type: multiple_choice\ndoc_to_choice: '{{{{c}}}}'\n"
        "doc_to_target: gold\nmetric_list: [{metric: acc}]\n"
    )
    (folder / "write.yaml").write_text(
        f"task: write\n{shared}output_type: generate_until\ndoc_to_target: ' {{{{c[0]}}}}'\n"
        'generation_kwargs: {until: ["\\n"], max_gen_toks: 8}\n'
        "metric_list: [{metric: exact_match}]\n"
    )
