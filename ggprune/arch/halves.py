"""Layers made of the attention of one layer and the FFN of a later one: what of that is exact.

A run of units that begins with an FFN and ends with an attention leaves such a layer behind: the
FFN of layer i and the attention of layer j gone, the attention of i and the FFN of j compute one
behind the other. Every rule is asked twice: as if the layers whose attention stays were whole, and
as if those whose FFN stays were. A half's keys and tensors are taken from the answer about that
half; in everything else the answers must agree.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from ggprune.arch.change import Change
from ggprune.arch.hparams import KEY_HALVES, Illegal, Removal
from ggprune.arch.rules import Rule
from ggprune.arch.table import ArchitectureRow
from ggprune.model.names import block_of, half_of
from ggprune.model.unit import HALVES, Unit

V = TypeVar("V")
UNDIVIDED = "llama.cpp's graph has no name for what lies between its attention and its FFN"
HalfByName = Callable[[str], Unit | None]


def check_halves(attn: Removal, ffn: Removal, row: ArchitectureRow) -> None:
    """Raises Illegal if layers of the model are not an attention and then an FFN of their own."""
    model = attn.model
    whole = [n for n in row.undivided if (n in attn.keep) != (n in ffn.keep)]
    if whole:
        raise Illegal(f"layer {whole[0]} goes or stays as a whole: {UNDIVIDED}")
    if not row.halves or len(model.stacks) > 1:
        raise Illegal("its layers are not known to be attention and then FFN: drop whole layers")
    if row.parallel_if is not None:
        key = row.parallel_if.replace("{arch}", model.arch)
        stated = model.metadata.get(key)
        if stated is None or stated.decode() is not False:
            raise Illegal(f"{key} is set: attention and FFN read the same stream")
    needed, depth = row.sequential_with, model.stacks[0][1]
    if needed is not None and not all(f"blk.{n}.{needed}" in model.by_name for n in range(depth)):
        raise Illegal(f"without {needed} attention and FFN read the same stream")
    own = (
        tensor.name for tensor in model.tensors
        if (block := block_of(tensor.name)) is not None and block[1] < attn.n_trunk
    )  # fmt: skip
    unknown = next((name for name in own if half_of(name, row.ffn_tensors) is None), None)
    if unknown is not None:
        raise Illegal(f"it is not known whether {unknown} belongs to the attention or the FFN")


def shifted_change(rule: Rule, attn: Removal, ffn: Removal, row: ArchitectureRow) -> Change:
    """What a rule changes where `attn` and `ffn` say which layers' halves stay.

    Raises Illegal if the rule objects, or says of both something else.
    """
    asked = {Unit.ATTN: attn, Unit.FFN: ffn}
    if rule.half is not None:
        return rule.change(asked[rule.half])
    one, other = (rule.change(asked[half]) for half in HALVES)

    def tensor_half(name: str) -> Unit | None:
        return half_of(name, row.ffn_tensors)

    def key_half(key: str) -> Unit | None:
        return KEY_HALVES.get(key.replace(f"{attn.model.arch}.", "{arch}.", 1))

    if (one.gone, one.arch, one.moved, one.dropped) != (
        other.gone, other.arch, other.moved, other.dropped
    ):  # fmt: skip
        raise Illegal(f"{rule.sentence()} What that means for its two halves does not agree")
    return Change(
        values=_joined(one.values, other.values, key_half),
        gone=one.gone, arch=one.arch, moved=one.moved, dropped=one.dropped,
        edits=_joined(one.edits, other.edits, tensor_half),
        added=_joined(one.added, other.added, tensor_half),
        notes=tuple(dict.fromkeys((*one.notes, *other.notes))),
    )  # fmt: skip


def _joined(attn: Mapping[str, V], ffn: Mapping[str, V], half_by_name: HalfByName) -> dict[str, V]:
    """Each half's entries from its own answer. Raises Illegal where others differ."""
    joined: dict[str, V] = {}
    for name in dict.fromkeys((*attn, *ffn)):
        half = half_by_name(name)
        said = {Unit.ATTN: attn, Unit.FFN: ffn}
        if half is not None:
            if name in said[half]:
                joined[name] = said[half][name]
        elif attn.get(name) == ffn.get(name):
            joined[name] = attn[name]
        else:
            raise Illegal(f"{name} is of attention and FFN alike, which differ")
    return joined
