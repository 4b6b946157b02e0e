"""Pruning and quantizing in one call, against llama.cpp's quantizer called by hand."""

from __future__ import annotations

import ctypes
import math
import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from ggprune.arch.hparams import mtp_blocks
from ggprune.errors import DataError, LlamaError, UsageError
from ggprune.model.gguf import read_gguf
from ggprune.model.imatrix import Imatrix
from ggprune.model.model import Model, open_model
from ggprune.pipeline.job import AS_INPUT, Job, planned, write
from ggprune.quantize.options import (
    FILE_TYPES,
    KvOverride,
    QuantizeOptions,
    TensorTypeRule,
    parse_rule,
)
from ggprune.runtime.library import llama
from ggprune.surgery.plan import PrunePlan, make_plan
from tests.arch.families import FAMILIES, METADATA
from tests.conftest import TINY
from tests.gguf_files import FakeTensor, build, kv, kv_array, kv_str, text
from tests.helpers import pruned_copy
from tests.random_models import make_random_model
from tests.split import split

DROP = (3, 4)
BY_HAND = ("Q2_K", "Q3_K_M", "Q4_0", "Q4_K_M", "Q5_1", "Q5_K_S", "Q6_K", "Q8_0", "TQ2_0")
WITH_MATRIX = ("IQ2_XS", "IQ4_XS", "Q2_K_S")
TOOL = shutil.which("llama-quantize")


def job(
    model: Model,
    out: Path,
    options: QuantizeOptions,
    plan: PrunePlan | None = None,
    imatrix: Imatrix | None = None,
    *,
    split: Literal["as the input"] | None = None,
    force: bool = False,
) -> Job:
    return Job(
        model=model, out=out, plan=plan, quantize=options, imatrix=imatrix, split=split,
        force=force, check_load=False,
    )  # fmt: skip


def contents(path: Path) -> dict[str, tuple[str, bytes]]:
    model, data = open_model(path), {f.path: f.path.read_bytes() for f in open_model(path).files}
    return {
        t.name: (t.type.name, data[t.path][t.offset : t.offset + t.size_bytes])
        for t in model.tensors
    }


def types(path: Path) -> dict[str, str]:
    return {t.name: t.type.name for t in open_model(path).tensors}


def ones(model: Model, leave_out: tuple[str, ...] = ()) -> Imatrix:
    """A matrix whose entries differ from tensor to tensor."""
    rng = np.random.default_rng(0)
    names = [t for t in model.tensors if len(t.shape) == 2 and t.name.startswith("blk.")]
    entries = {t.name: rng.uniform(0.1, 2, t.shape[0]).astype(np.float32) for t in names}
    kept = {n: v for n, v in entries.items() if n not in leave_out}
    return Imatrix(path=Path("some.imatrix"), entries=kept, dataset="text", n_chunk=7)


def by_hand(source: Path, out: Path, name: str, imatrix: Imatrix | None = None) -> Path:
    """llama_model_quantize with nothing of ggprune between."""
    lib = llama()
    params = lib.llama_model_quantize_default_params()
    params.ftype, params.nthread = FILE_TYPES[name], 1
    if imatrix is not None:
        data = (lib.llama_model_imatrix_data * (len(imatrix.entries) + 1))()
        for i, (tensor, values) in enumerate(imatrix.entries.items()):
            pointer = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
            data[i] = lib.llama_model_imatrix_data(tensor.encode(), pointer, values.size)
        params.imatrix = ctypes.cast(data, ctypes.POINTER(lib.llama_model_imatrix_data))
    status = lib.llama_model_quantize(os.fsencode(source), os.fsencode(out), ctypes.byref(params))
    assert status == 0
    return out


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory, tiny: Model) -> Model:
    return pruned_copy(tiny, DROP, tmp_path_factory.mktemp("pruned") / "pruned.gguf")


@pytest.mark.parametrize("name", BY_HAND)
def test_tensors_are_those_of_the_quantizer_on_the_pruned_file(
    tmp_path: Path, tiny: Model, pruned: Model, name: str
) -> None:
    out = tmp_path / "out.gguf"
    write(job(tiny, out, QuantizeOptions(name), make_plan(tiny, DROP)))
    assert contents(out) == contents(by_hand(pruned.path, tmp_path / "hand.gguf", name))


@pytest.mark.parametrize("name", WITH_MATRIX)
def test_the_same_with_an_importance_matrix(tmp_path: Path, tiny: Model, name: str) -> None:
    """Two layers are enough: low types take long."""
    keep, imatrix = (1, 6), ones(tiny)
    drop = tuple(n for n in range(9) if n not in keep)
    new = {n: n.replace(f"blk.{keep[i]}.", f"blk.{i}.") for i in (0, 1) for n in imatrix.entries
           if n.startswith(f"blk.{keep[i]}.")}  # fmt: skip
    options, out = QuantizeOptions(name, n_threads=1), tmp_path / "out.gguf"
    done = write(job(tiny, out, options, make_plan(tiny, drop), imatrix=imatrix))
    pruned = pruned_copy(tiny, drop, tmp_path / "pruned.gguf")
    moved = replace(imatrix, entries={new[old]: imatrix.entries[old] for old in new})
    assert contents(out) == contents(by_hand(pruned.path, tmp_path / "hand.gguf", name, moved))
    assert "1 of 15 tensors are quantized without an entry" in done.notes[0]  # the embeddings


def test_mxfp4_of_experts(tmp_path: Path) -> None:
    model = open_model(make_random_model(METADATA["qwen3moe"], tmp_path / "moe.gguf"))
    out, options = tmp_path / "out.gguf", QuantizeOptions("MXFP4_MOE")
    write(job(model, out, options, make_plan(model, (2,))))
    copy = pruned_copy(model, (2,), tmp_path / "pruned.gguf")
    assert "MXFP4" in types(out).values()
    assert contents(out) == contents(by_hand(copy.path, tmp_path / "hand.gguf", "MXFP4_MOE"))


@pytest.mark.skipif(TOOL is None, reason="llama-quantize is not on PATH")
@pytest.mark.parametrize("name", ["Q4_K_M", "Q3_K_S", "Q8_0", "IQ4_NL"])
def test_the_tool_itself(tmp_path: Path, tiny: Model, pruned: Model, name: str) -> None:
    out, theirs = tmp_path / "out.gguf", tmp_path / "theirs.gguf"
    write(job(tiny, out, QuantizeOptions(name), make_plan(tiny, DROP)))
    subprocess.run([str(TOOL), pruned.path, theirs, name], check=True, capture_output=True)
    assert contents(out) == contents(theirs)


def test_an_entry_that_is_missing_or_odd_is_named_before_any_work(
    tmp_path: Path, tiny: Model
) -> None:
    plan, out = make_plan(tiny, DROP), tmp_path / "out.gguf"
    imatrix = ones(tiny, leave_out=("blk.7.ffn_up.weight",))
    with pytest.raises(DataError, match=r"no entry for blk\.7\.ffn_up\.weight, which IQ2_XXS"):
        write(job(tiny, out, QuantizeOptions("IQ2_XXS"), plan, imatrix=imatrix))
    with pytest.raises(DataError, match=r"no entry for blk\.7\.ffn_up\.weight.*--exclude-weights"):
        write(job(tiny, out, QuantizeOptions("Q4_K_M"), plan, imatrix=imatrix))
    without = QuantizeOptions("Q4_K_M", exclude_weights=("blk.7.ffn_up",))
    assert "2 of 50 tensors" in planned(job(tiny, out, without, plan, imatrix=imatrix)).notes[0]
    odd = {**ones(tiny).entries, "blk.0.ffn_up.weight": np.ones(7, np.float32)}
    imatrix = replace(imatrix, entries=odd)
    with pytest.raises(DataError, match=r"blk\.0\.ffn_up\.weight has 7 values, expected 256"):
        planned(job(tiny, out, QuantizeOptions("Q8_0"), imatrix=imatrix))
    assert list(tmp_path.iterdir()) == []
    imatrix = replace(imatrix, entries={**odd, "blk.0.ffn_up.weight": np.ones(256, np.float32),
                                        "token_embd.weight": np.ones(7, np.float32)})  # fmt: skip
    planned(job(tiny, out, QuantizeOptions("Q8_0"), imatrix=imatrix))


def test_all_that_is_missing_is_named_at_once(tmp_path: Path, tiny: Model) -> None:
    plan, out = make_plan(tiny, DROP), tmp_path / "out.gguf"
    gone = [f"blk.{n}.{kind}.weight" for kind in ("ffn_up", "ffn_down") for n in (1, 6, 7)]
    imatrix = ones(tiny, leave_out=tuple(gone))
    with pytest.raises(DataError) as error:
        planned(job(tiny, out, QuantizeOptions("Q4_K_M"), plan, imatrix=imatrix))
    assert str(error.value) == (
        "some.imatrix: has no entry for blk.1,6-7.ffn_up.weight, blk.1,6-7.ffn_down.weight, to be "
        "quantized as well: made for another model? --exclude-weights .ffn_up. --exclude-weights "
        ".ffn_down. quantizes without"
    )
    helped = QuantizeOptions("Q4_K_M", exclude_weights=("ffn_down", "ffn_up"))
    assert "blk.0-2,5-8.ffn_down" in planned(job(tiny, out, helped, plan, imatrix=imatrix)).notes[0]
    with pytest.raises(DataError) as error:
        planned(job(tiny, out, QuantizeOptions("IQ2_XXS"), plan, imatrix=imatrix))
    said = str(error.value)
    assert "blk.1,6-7.ffn_down.weight, which IQ2_XXS" in said
    planned(job(tiny, out, asked_for(said), plan, imatrix=imatrix))
    imatrix = ones(tiny, leave_out=tuple(gone[:2]))
    with pytest.raises(DataError) as error:
        planned(job(tiny, out, QuantizeOptions("IQ2_XXS"), plan, imatrix=imatrix))
    helped = asked_for(str(error.value))
    assert helped.exclude_weights == tuple(gone[:2])
    planned(job(tiny, out, helped, plan, imatrix=imatrix))


def asked_for(said: str) -> QuantizeOptions:
    """The options that an error names."""
    rules = tuple(parse_rule(way) for way in re.findall(r"--tensor-type '(.*?)'", said))
    excluded = tuple(re.findall(r"--exclude-weights (\S+)", said))
    return QuantizeOptions("IQ2_XXS", tensor_types=rules, exclude_weights=excluded)


def test_mtp_blocks_have_no_entries_and_the_way_out_is_named(tmp_path: Path) -> None:
    (family,) = (each for each in FAMILIES if each.name == "glm4moe with MTP")
    model = family.make(tmp_path)
    (mtp,) = mtp_blocks(model)
    entries = {
        t.name: np.ones(t.shape[0] * math.prod(t.shape[2:]), np.float32)
        for layer in model.layers[:mtp] for t in layer if len(t.shape) > 1
    }  # fmt: skip
    imatrix = Imatrix(path=Path("some.imatrix"), entries=entries, dataset="", n_chunk=1)
    plan, out = make_plan(model, (3, 4)), tmp_path / "out.gguf"
    with pytest.raises(DataError) as error:
        planned(job(model, out, QuantizeOptions("IQ2_XXS"), plan, imatrix=imatrix))
    said = str(error.value)
    assert f"blk.{mtp}.attn_q.weight" in said
    assert rf"--tensor-type 'blk\.{mtp}\.=q4_k', or prune --drop-mtp" in said
    helped = QuantizeOptions("IQ2_XXS", tensor_types=(TensorTypeRule(rf"blk\.{mtp}\.", "Q4_K"),))
    planned(job(model, out, helped, plan, imatrix=imatrix))
    planned(job(model, out, QuantizeOptions("IQ2_XXS"), make_plan(model, (3, 4, mtp)),
                imatrix=imatrix))  # fmt: skip
    (note,) = planned(job(model, out, QuantizeOptions("Q4_K_M"), plan, imatrix=imatrix)).notes
    assert f"blk.{mtp}.attn_q.weight" in note


@pytest.mark.parametrize(
    ("value", "flaw"),
    [
        (kv_str("general.about", "a\0b"), "general.about has a NUL byte in it"),
        (kv_array("general.tags", 8, 2, text("a") + text("b\0")), "general.tags has a NUL byte"),
        (kv("general.flag", 7, b"\2"), "general.flag is a bool that is neither 0 nor 1"),
        (kv_array("general.flags", 7, 2, b"\1\2"), "general.flags is a bool that is neither"),
    ],
)
def test_metadata_that_the_quantizer_would_change_is_refused_before_any_work(
    tmp_path: Path, value: bytes, flaw: str
) -> None:
    path, out = tmp_path / "in.gguf", tmp_path / "out.gguf"
    source, data = read_gguf(TINY), TINY.read_bytes()
    kvs = [kv(key, known.type, bytes(known.raw)) for key, known in source.metadata.items()]
    tensors = [
        FakeTensor(t.name, data[t.offset : t.offset + t.size_bytes], t.shape, t.type.id)
        for t in source.tensors
    ]
    path.write_bytes(build([*kvs, value], tensors))
    model = open_model(path)
    with pytest.raises(LlamaError, match=flaw):
        planned(job(model, out, QuantizeOptions("Q4_K_M"), make_plan(model, DROP)))
    planned(job(model, out, QuantizeOptions("COPY"), make_plan(model, DROP)))
    key = flaw.split(" ", 1)[0]
    anew = QuantizeOptions("Q4_K_M", overrides=(KvOverride(key, "sound"),))
    planned(job(model, out, anew))


def test_weights_are_included_and_excluded(tmp_path: Path, tiny: Model) -> None:
    imatrix, out = ones(tiny), tmp_path / "out.gguf"
    include = QuantizeOptions("Q4_K_M", include_weights=("ffn_up", "blk.5."))
    write(job(tiny, out, include, imatrix=imatrix))
    kept = {n: v for n, v in imatrix.entries.items() if "ffn_up" in n or "blk.5." in n}
    hand = by_hand(TINY, tmp_path / "hand.gguf", "Q4_K_M", replace(imatrix, entries=kept))
    assert contents(out) == contents(hand)
    assert open_model(out).metadata["quantize.imatrix.entries_count"].decode() == len(kept) == 15
    exclude = QuantizeOptions("IQ2_XS", exclude_weights=("blk.5.",))
    with pytest.raises(DataError, match=r"no entry for blk\.5\."):
        planned(job(tiny, out, exclude, imatrix=imatrix))
    with pytest.raises(DataError, match="leave no entry"):
        planned(job(tiny, out, replace(exclude, exclude_weights=("",)), imatrix=imatrix))


def test_weights_are_chosen_by_the_originals_numbers(tmp_path: Path, tiny: Model) -> None:
    imatrix, plan, out = ones(tiny), make_plan(tiny, DROP), tmp_path / "out.gguf"
    options = QuantizeOptions("Q4_K_M", exclude_weights=("blk.5.",))  # blk.3 of the pruned model
    write(job(tiny, out, options, plan, imatrix=imatrix))
    pruned = pruned_copy(tiny, DROP, tmp_path / "pruned.gguf")
    renumbered = {n: n if n < 3 else n - 2 for n in range(9) if n not in DROP}
    entries = {
        name.replace(f"blk.{old}.", f"blk.{new}."): values
        for old, new in renumbered.items()
        for name, values in imatrix.entries.items()
        if name.startswith(f"blk.{old}.") and old != 5
    }
    hand = by_hand(pruned.path, tmp_path / "hand.gguf", "Q4_K_M", replace(imatrix, entries=entries))
    assert contents(out) == contents(hand)


def test_patterns_see_the_originals_numbers_unless_told(tmp_path: Path, tiny: Model) -> None:
    plan, out = make_plan(tiny, DROP), tmp_path / "out.gguf"
    rules = (TensorTypeRule(r"blk\.5\.attn_v", "Q8_0"), TensorTypeRule(r"blk\.3\.", "Q8_0"))
    options = QuantizeOptions("Q4_K_S", tensor_types=rules)
    done = write(job(tiny, out, options, plan))
    assert [n for n, t in types(out).items() if t == "Q8_0"] == ["blk.3.attn_v.weight"]
    assert planned(job(tiny, out, options, plan)).size_bytes == done.size_bytes
    write(job(tiny, out, replace(options, new_numbers=True), plan, force=True))
    raised = {n for n, t in types(out).items() if t == "Q8_0"}
    assert len(raised) == 8
    assert raised > {"blk.3.attn_v.weight", "blk.5.attn_v.weight", "blk.3.ffn_up.weight"}
    nothing = replace(options, tensor_types=(TensorTypeRule("attn_x", "Q8_0"),))
    with pytest.raises(UsageError, match="no pattern"):
        planned(job(tiny, out, nothing, plan))


def test_the_mixture_without_its_mixing(tmp_path: Path, tiny: Model) -> None:
    out = tmp_path / "out.gguf"
    options = QuantizeOptions("Q4_K_M", pure=True, token_embedding_type="Q8_0")
    done = write(job(tiny, out, options))
    made = types(out)
    assert made.pop("token_embd.weight") == "Q8_0"
    assert set(made.values()) == {"Q4_K", "F32"}
    assert planned(job(tiny, out, options)).size_bytes == done.size_bytes


def test_interface_blocks_are_raised_and_no_others(tmp_path: Path, tiny: Model) -> None:
    plan, out, plain = make_plan(tiny, DROP), tmp_path / "out.gguf", tmp_path / "plain.gguf"
    options = QuantizeOptions("Q4_K_M", bump_interface="Q5_K")
    done = write(job(tiny, out, options, plan))
    assert planned(job(tiny, out, options, plan)) == done
    assert done.notes == ("12 tensors beside the cuts are stored in Q5_K instead of less",)
    write(job(tiny, plain, QuantizeOptions("Q4_K_M"), plan))
    before, after = types(plain), types(out)
    changed = {n: (before[n], after[n]) for n in after if before[n] != after[n]}
    assert {n.split(".")[1] for n in changed} == {"2", "3"}  # the last before, the first behind
    assert set(changed.values()) == {("Q4_K", "Q5_K")}  # what has Q6_K keeps it
    assert "Q6_K" in {t for n, t in before.items() if n.startswith(("blk.2.", "blk.3."))}


def test_a_model_of_the_type_already_is_copied(tmp_path: Path, tiny_q4: Model) -> None:
    out = tmp_path / "out.gguf"
    done = write(job(tiny_q4, out, QuantizeOptions("Q4_K_M")))
    assert done.notes == (
        "the model is Q4_K_M already: its tensors are copied, not quantized again",
    )
    assert out.read_bytes() == tiny_q4.path.read_bytes()


def test_a_pruned_model_keeps_its_mixture_unless_told(tmp_path: Path, tiny_q4: Model) -> None:
    plan, out = make_plan(tiny_q4, (0,)), tmp_path / "out.gguf"  # the mixture of 8 is another one
    options, plain = QuantizeOptions("Q4_K_M"), tmp_path / "plain.gguf"
    done = write(job(tiny_q4, out, options, plan))
    assert out.read_bytes() == pruned_copy(tiny_q4, (0,), plain).path.read_bytes()
    again = replace(options, allow_requantize=True)
    write(job(tiny_q4, out, again, plan, force=True))
    before, after = types(plain), types(out)
    n_other = sum(before[name] != after[name] for name in before)
    assert n_other > 0
    assert f"copied; --allow-requantize would give {n_other} of them another" in done.notes[0]
    more = replace(options, tensor_types=(TensorTypeRule("attn_k", "Q8_0"),))
    with pytest.raises(LlamaError, match=r"blk\.\d\.attn_k\.weight is quantized already"):
        planned(job(tiny_q4, out, more, plan))


def test_a_pruned_model_of_the_type_already_is_copied(tmp_path: Path, tiny: Model) -> None:
    out, plan, options = tmp_path / "out.gguf", make_plan(tiny, DROP), QuantizeOptions("F16")
    done = write(job(tiny, out, options, plan))
    assert "is F16 already" in done.notes[0]
    plain = pruned_copy(tiny, DROP, tmp_path / "plain.gguf")
    assert out.read_bytes() == plain.path.read_bytes()
    assert planned(job(tiny, out, options, plan)) == done


def test_metadata_is_overridden_and_verified(tmp_path: Path, tiny: Model) -> None:
    values = (
        KvOverride("general.name", "other"), KvOverride("x.int", 7), KvOverride("x.float", 0.5),
        KvOverride("x.bool", True),
    )  # fmt: skip
    for name in ("Q8_0", "COPY"):
        out, options = tmp_path / f"{name}.gguf", QuantizeOptions(name, overrides=values)
        announced = planned(job(tiny, out, options)).size_bytes
        write(job(tiny, out, options))
        assert out.stat().st_size == announced
        metadata = open_model(out).metadata
        assert [metadata[v.key].decode() for v in values] == [v.value for v in values]
    assert contents(out) == contents(TINY)


def test_shards_are_announced_and_kept(tmp_path: Path, tiny: Model) -> None:
    (tmp_path / "in").mkdir()
    model = open_model(split(tiny.path, tmp_path / "in", 3)[0])
    out, options = tmp_path / "out.gguf", QuantizeOptions("Q4_K_M")
    announced = planned(job(model, out, options, split=AS_INPUT))
    done = write(job(model, out, options, split=AS_INPUT))
    assert announced == done
    assert len(done.paths) == 3
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == [p.name for p in done.paths]
    whole = by_hand(TINY, tmp_path / "hand.gguf", "Q4_K_M")
    assert contents(done.paths[0]) == contents(whole)
    plan = make_plan(model, DROP)
    announced = planned(job(model, tmp_path / "p.gguf", options, plan, split=AS_INPUT))
    assert announced == write(job(model, tmp_path / "p.gguf", options, plan, split=AS_INPUT))
