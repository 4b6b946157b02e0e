"""Tensors for which an importance matrix has no entry: which ones, and how to do without.

All of them are named at once, by the names that the user knows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from math import prod

from ggprune.arch.hparams import mtp_blocks
from ggprune.errors import DataError
from ggprune.model.imatrix import Imatrix
from ggprune.model.layers import format_layers
from ggprune.model.model import Model
from ggprune.model.names import HEAD, block_of
from ggprune.model.types import tensor_type
from ggprune.quantize.options import QuantizeOptions
from ggprune.quantize.patterns import exact_rules
from ggprune.quantize.quantizer import EMBEDDINGS

# src/llama-quant.cpp, tensor_requires_imatrix
NEEDY_TYPES = ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS")
MEASURED = "blk."  # tools/imatrix/imatrix.cpp, collect_imatrix: what llama-imatrix measures
SUBSTITUTE = "q4_k"  # needs no entry, and the same lengths of rows
DOT = r"\."
MAX_NAMES = 4  # more names than these are put as what they have in common


def check_entries(
    model: Model, types: Mapping[str, str], options: QuantizeOptions, imatrix: Imatrix,
    names: Mapping[str, str],
) -> None:  # fmt: skip
    """Raises DataError for entries that do not fit, and for all that are missing and should not be;
    `names` are those by which the user knows the tensors.
    """
    needy: dict[str, str] = {}
    measured: list[str] = []
    for tensor in (t for t in model.tensors if types[t.name] != t.type.name):
        name, made = names[tensor.name], types[tensor.name]
        if tensor.name in imatrix.entries:
            # A value for every column of every expert. The quantizer too ignores what does not fit
            # for embeddings: llama-imatrix cannot see them.
            size = imatrix.entries[tensor.name].size
            expected = tensor.shape[0] * prod(tensor.shape[2:3])
            if size != expected and tensor.name not in EMBEDDINGS:
                told = f"{name} has {size} values, expected {expected}"
                raise DataError(f"{imatrix.path}: {told}: made for another model?")
        elif needs_imatrix(tensor.name, made, options.type):
            needy[name] = made
        elif tensor.name.startswith(MEASURED) and tensor.name not in imatrix.left_out:
            measured += [name] * (tensor_type(made).block_size > 1)
    if not needy and not measured:
        return
    aside = {names[t.name] for n in mtp_blocks(model) for t in model.layers[n]}
    parts = ([_without(needy, aside)] if needy else []) + ([_other(measured)] if measured else [])
    raise DataError(f"{imatrix.path}: has no entry for {'; nor for '.join(parts)}")


def _without(needy: Mapping[str, str], aside: set[str]) -> str:
    """Of tensors that must have one: give them another type, or drop them."""
    if aside.issuperset(needy):
        numbers = "|".join(
            str(n) for n in sorted({n for _, n in filter(None, map(block_of, needy))})
        )
        pattern = rf"blk\.({numbers})\." if "|" in numbers else rf"blk\.{numbers}\."
        ways = f"{_typed([pattern])}, or prune --drop-mtp: llama-imatrix never runs MTP blocks"
    elif len(needy) <= MAX_NAMES:
        patterns = [rule.pattern for rule in exact_rules(dict.fromkeys(needy, SUBSTITUTE))]
        ways = f"{_typed(patterns)} {_excluded(needy)}"
    else:
        kinds = _kinds(needy)
        ways = f"{_typed(kind.replace('.', DOT) for kind in kinds)} {_excluded(kinds)}"
    made = ", ".join(dict.fromkeys(needy.values()))
    return f"{join_names(needy)}, which {made} cannot do without: {ways}"


def _other(measured: Collection[str]) -> str:
    """Of tensors that llama-imatrix would have measured."""
    parts = measured if len(measured) <= MAX_NAMES else _kinds(measured)
    return (
        f"{join_names(measured)}, to be quantized as well: made for another model? "
        f"{_excluded(parts)} quantizes without"
    )


def _typed(patterns: Iterable[str]) -> str:
    return " ".join(f"--tensor-type '{pattern}={SUBSTITUTE}'" for pattern in patterns)


def _excluded(parts: Iterable[str]) -> str:
    return " ".join(f"--exclude-weights {part}" for part in parts)


def _kinds(names: Iterable[str]) -> list[str]:
    """What tensors of a kind have in common: `.ffn_down_exps.` of all blocks."""
    return list(dict.fromkeys(f".{n.split('.')[-2]}." if block_of(n) else n for n in names))


def join_names(names: Iterable[str]) -> str:
    """`blk.2-4,7.ffn_up.weight, output.weight`: one for the blocks that have a tensor of a kind."""
    numbers: dict[tuple[str, str], list[int]] = {}
    for name in names:
        block = block_of(name)
        if block is None:
            numbers[name, ""] = []
        else:
            before, _, behind = name.partition(f"blk.{block[1]}.")
            numbers.setdefault((before, behind), []).append(block[1])
    return ", ".join(
        f"{before}blk.{format_layers(n)}.{behind}" if n else before
        for (before, behind), n in numbers.items()
    )


def needs_imatrix(name: str, made: str, file_type: str) -> bool:
    """Does the quantizer refuse to make this tensor so without an entry of an imatrix?"""
    if name == HEAD or name in EMBEDDINGS:
        return False
    return made in NEEDY_TYPES or (made == "Q2_K" and file_type == "Q2_K_S")


def missing_entries(
    types: Mapping[str, str], imatrix: Imatrix | None, names: Mapping[str, str]
) -> tuple[str, ...]:
    """What to say of tensors that are quantized without an entry, by the user's `names`."""
    if imatrix is None:
        return ()
    quantized = [name for name in names if tensor_type(types[name]).block_size > 1]
    without = [names[name] for name in quantized if name not in imatrix.entries]
    if not without:
        return ()
    counts = f"{len(without)} of {len(quantized)} tensors are quantized without an entry of"
    return (f"{counts} {imatrix.path.name}, as by llama-quantize: {join_names(without)}",)
