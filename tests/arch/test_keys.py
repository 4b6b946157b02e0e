"""The survey of keys finds what it is for: keys that nobody knows, rules that are missing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ggprune.arch.change import Change
from ggprune.arch.hosts import HOSTS
from ggprune.arch.rules.positions import MoeStep
from ggprune.arch.table import ArchitectureRow, architecture_table
from ggprune.errors import LlamaError
from ggprune.model.metadata import ValueType
from ggprune.runtime.isolate import isolated
from ggprune.runtime.session import LlamaModel
from tests.arch import meaning
from tests.arch.families import FAMILIES, Family
from tests.arch.keys import ReadKey, key_names, keys_read, metadata_of
from tests.arch.meaning import UNGROWN, unknown_keys
from tests.arch.variants import Result, check_variants

STEP = "{arch}.interleave_moe_layer_step"


def family(name: str) -> Family:
    return next(f for f in FAMILIES if f.name == name)


def test_the_library_says_which_keys_it_reads(tmp_path: Path) -> None:
    assert len(key_names()) > 150
    metadata = metadata_of(family("ernie4_5-moe").store_metadata(tmp_path / "metadata.gguf"))
    read = keys_read(metadata, tmp_path)
    assert read[STEP] == ReadKey(ValueType.UINT32)
    assert read["{arch}.attention.head_count"] == ReadKey(ValueType.UINT32, True, 12)
    assert read["{arch}.attention.causal"] == ReadKey(ValueType.BOOL)
    assert "{arch}.attention.sliding_window" not in read
    assert STEP not in keys_read(metadata, tmp_path, known=[STEP])


def test_arrays_of_any_length_and_arrays_alone(tmp_path: Path) -> None:
    metadata = metadata_of(family("gemma3").store_metadata(tmp_path / "metadata.gguf"))
    pattern = "{arch}.attention.sliding_window_pattern"
    assert keys_read(metadata, tmp_path)[pattern] == ReadKey(ValueType.UINT32, True)
    metadata = metadata_of(family("gemma4").store_metadata(tmp_path / "metadata.gguf"))
    assert keys_read(metadata, tmp_path)[pattern] == ReadKey(None, True)


def test_every_key_that_is_read_is_known(tmp_path: Path) -> None:
    assert {f.arch for f in UNGROWN}.isdisjoint(f.arch for f in FAMILIES)
    every = (*FAMILIES, *UNGROWN)
    assert {f.arch for f in every} >= {
        name
        for name, row in architecture_table().architectures.items()
        if isinstance(row, ArchitectureRow)
    }
    assert [finding for f in every for finding in unknown_keys(f, tmp_path)] == []


@pytest.mark.parametrize("name", ["llama", "qwen4exp", "minimax-m3", "dots3note"])
def test_llama_cpp_reads_on_until_it_wants_tensors(name: str, tmp_path: Path) -> None:
    """Nothing that it reads is missed, because something in front of it failed."""
    known = next(f for f in (*FAMILIES, *UNGROWN) if f.name == name)
    with pytest.raises(LlamaError, match=r"tensor 'token_embd.weight' not found"):
        LlamaModel(known.store_metadata(tmp_path / "metadata.gguf"))


def test_a_row_without_the_rule_of_a_key_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = architecture_table()
    row = table.architectures["ernie4_5-moe"]
    assert isinstance(row, ArchitectureRow)
    bare = replace(table, architectures={"ernie4_5-moe": replace(row, rules=())})
    monkeypatch.setattr(meaning, "architecture_table", lambda: bare)
    assert list(unknown_keys(family("ernie4_5-moe"), tmp_path)) == [
        "ernie4_5-moe: interleave_moe_layer_step is read, and no rule moe_step follows it"
    ]


def test_a_key_that_nobody_knows_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meaning, "ALIKE", meaning.ALIKE - {"expert_gating_func"})
    assert list(unknown_keys(family("dots1"), tmp_path)) == [
        "dots1: expert_gating_func is read, and nothing is known of it"
    ]


def without_the_rule() -> list[Result]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MoeStep, "change", lambda rule, removal: Change())
        return check_variants(family("ernie4_5-moe"), seed=0, limit=2)


def test_a_rule_that_does_nothing_is_found() -> None:
    """In a new process: forks of one that has computed with several threads cannot compute."""
    results = isolated(without_the_rule)
    assert results[0].verdict == "exact"  # every layer has experts
    assert "wrong" in {r.verdict for r in results if STEP in r.changes}


# Read by the model's own architecture: of no account for text, checked in another way, or read to
# give the model a name.
OF_NO_ACCOUNT = {
    "{arch}.rope.dimension_sections", "{arch}.n_deepstack_layers", "{arch}.vocab_size",
}  # fmt: skip


@pytest.mark.parametrize("arch", [
    name for name, row in architecture_table().architectures.items()
    if isinstance(row, ArchitectureRow) and row.alone is not None and row.alone.host is not None
])  # fmt: skip
def test_a_host_reads_what_the_architecture_reads(arch: str, tmp_path: Path) -> None:
    """And keys that one of them reads alone are dealt with: a newer llama.cpp may read more."""
    row = architecture_table().architectures[arch]
    assert isinstance(row, ArchitectureRow) and row.alone is not None and row.alone.host
    own = next(f for f in FAMILIES if f.arch == arch and f.name != "llama")
    metadata = metadata_of(own.store_metadata(tmp_path / "own.gguf"))
    hosted = replace(own, arch=row.alone.host)
    read = set(keys_read(metadata, tmp_path))
    read_by_host = set(
        keys_read(metadata_of(hosted.store_metadata(tmp_path / "host.gguf")), tmp_path)
    )
    assert read - read_by_host <= {*row.alone.unless, *OF_NO_ACCOUNT}
    assert read_by_host - read <= {*HOSTS[row.alone.host].own}
