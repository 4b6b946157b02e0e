"""Layers that keep only one of their halves: how llama.cpp can be told of such.

Some architectures are told how wide each layer is, and a half can be next to nothing. Models of
others are stored as an architecture that is, where it computes the same (`hosts`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from operator import or_

from ggprune.arch.change import Added, Change
from ggprune.arch.hosts import host_change
from ggprune.arch.hparams import HEAD_SIZES, Hparams, Illegal, Key, mtp_blocks
from ggprune.arch.table import Alone, ArchitectureRow, architecture_table
from ggprune.model.fields import MAX_U32
from ggprune.model.gguf import Tensor
from ggprune.model.metadata import Value, ValueType, array, scalar
from ggprune.model.model import Model
from ggprune.model.names import half_of, rename_block
from ggprune.model.newlayer import NewLayer
from ggprune.model.types import TensorType, tensor_type
from ggprune.model.unit import Unit

NEVER = "it would have to be stored as another architecture ({host}): --rehost never"
NO_IMAGES = "text only from now on: positions of images are not those of the original"
WORDS = {Unit.ATTN: "attention", Unit.FFN: "FFN"}
NORM = re.compile(r"norm")

# The axis along which a tensor has the FFN's width, by what is behind the block's number.
_BY_WIDTH = {r"ffn_(gate|up)\.(weight|bias)": -1, r"ffn_down\.weight": 0}


def alone_change(
    model: Model, row: ArchitectureRow, layers: Sequence[NewLayer], change: Change, *,
    rehost: bool = True,
) -> Change:  # fmt: skip
    """What changes as well where layers keep one of their halves.

    `change` is what follows from the layers if the missing halves stayed. Without `rehost` nothing
    is stored as another architecture. Raises Illegal if llama.cpp cannot be told.
    """
    alone = _forms(model, row, change)
    stubs = _Stubs(model, row, alone, tuple(layers))
    stubs.check()
    if alone.host is not None and alone.host != model.arch:
        if not rehost:
            raise Illegal(NEVER.format(host=alone.host))
        hosted = host_change(alone, model, layers)
        notes = (NO_IMAGES,) if alone.rope == "mrope" else ()
        return reduce(or_, (stubs.change(), hosted, Change(notes=notes)))
    return stubs.change()


def _forms(model: Model, row: ArchitectureRow, change: Change) -> Alone:
    """How the architecture that computes the result is told of missing halves."""
    if change.arch is not None:
        found = architecture_table().architectures[change.arch]
        row = found if isinstance(found, ArchitectureRow) else row
    if row.alone is None or (change.arch is not None and row.alone.host is None):
        name = change.arch or model.arch
        raise Illegal(
            f"layers of {name} cannot keep one half alone: attention and FFN must take turns in "
            "what remains"
        )
    return row.alone


@dataclass(frozen=True)
class _Stubs:
    """What stands in the place of missing halves."""

    model: Model
    row: ArchitectureRow
    alone: Alone
    layers: tuple[NewLayer, ...]

    def check(self) -> None:
        """Raises Illegal if the architecture cannot be told of these."""
        halves = {Unit.ATTN: self.alone.attn, Unit.FFN: self.alone.ffn}
        for layer in self.layers:
            half = layer.missing or (Unit.ATTN if layer.linear else None)
            if half is None:
                continue
            if layer.linear and self.alone.attn != "no_heads":
                raise Illegal(f"{layer}: only a deci has a matrix in the place of an attention")
            kept = layer.first
            if halves[half] is None:
                raise Illegal(f"layer {kept} cannot do without its {WORDS[half]} alone")
            for unit, word in WORDS.items():
                if not self._tensors(kept, unit):
                    raise Illegal(f"layer {kept} has no {word}")
            if kept in mtp_blocks(self.model):
                raise Illegal(f"layer {kept} is a multi-token-prediction (MTP) block")
            if kept in self.row.undivided:
                raise Illegal(f"layer {kept} goes or stays as a whole")
        lends = Hparams(self.model).integer(Key.SHARED_KV) > 0
        if lends and any(layer.attn is None for layer in self.layers):
            raise Illegal("its layers share keys and values: attentions stay with their FFNs")
        if all(layer.attn is None or layer.linear for layer in self.layers):
            raise Illegal("no attention would be left: llama.cpp cannot make a context")

    def change(self) -> Change:
        added: dict[str, Added] = {}
        for new, layer in enumerate(self.layers):
            if layer.missing:
                added |= dict(self._stub(new, layer))
            if layer.linear:
                added[f"blk.{new}.attn_output.weight"] = self._linear(layer.first)
        return Change(values=self._values(), added=added, dropped=self._replaced())

    def _linear(self, layer: int) -> Added:
        """The matrix that is to be fitted: zeros."""
        n_embd = Hparams(self.model).integer(Key.EMBEDDING_LENGTH, least=1)
        old, _ = (self._tensor(layer, part) for part in ("attn_output.weight", "attn_norm.weight"))
        return Added((n_embd, n_embd), type=_holding(old.type, n_embd).name)

    def _tensor(self, layer: int, part: str) -> Tensor:
        name = f"blk.{layer}.{part}"
        if name not in self.model.by_name:
            raise Illegal(f"{name} is missing")
        return self.model.by_name[name]

    def _replaced(self) -> frozenset[str]:
        """Of attentions in whose place a matrix comes, all but the norm."""
        return frozenset(
            tensor.name for layer in self.layers if layer.linear
            for tensor in self._tensors(layer.first, Unit.ATTN)
            if not tensor.name.endswith(".attn_norm.weight")
        )  # fmt: skip

    def _stub(self, new: int, layer: NewLayer) -> Iterator[tuple[str, Added]]:
        """The tensors that must be there: by their new names."""
        half = layer.missing
        assert half is not None
        old = layer.first
        if half is Unit.FFN and self.alone.ffn == "absent":
            n_embd = Hparams(self.model).integer(Key.EMBEDDING_LENGTH, least=1)
            yield f"blk.{new}.ffn_norm.weight", Added((n_embd,))
            return
        for tensor in self._tensors(old, half):
            name = rename_block(tensor.name, new)
            if half is Unit.FFN:
                yield name, Added(_narrowed(tensor, self._widths[old]))
            elif self._has_head(new):
                yield name, self._one_head(tensor, old)

    def _tensors(self, layer: int, half: Unit) -> list[Tensor]:
        ffn = self.row.ffn_tensors
        return [t for t in self.model.layers[layer] if half_of(t.name, ffn) is half]

    def _has_head(self, new: int) -> bool:
        """Does a missing attention have one head of zeros? A first layer must: head sizes follow
        from it (`load_hparams` in llama-model.cpp)."""
        return self.alone.attn == "zero_head" or new == 0

    @cached_property
    def _heads_before(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        hparams = Hparams(self.model)
        heads = _per_layer(hparams, Key.HEAD_COUNT, None)
        return heads, _per_layer(hparams, Key.HEAD_COUNT_KV, heads)

    def _one_head(self, tensor: Tensor, layer: int) -> Added:
        """Zeros in the place of an attention's tensor, of one head. Raises Illegal for one that is
        not known."""
        heads, heads_kv = self._heads_before
        n_head, n_head_kv = heads[layer], heads_kv[layer]
        part, _, kind = tensor.name.split(".", 2)[2].partition(".")
        shape = list(tensor.shape)
        if part in ("attn_q", "attn_gate", "attn_sinks"):
            shape[-1] = _share(tensor, shape[-1], n_head)
        elif part in ("attn_k", "attn_v"):
            shape[-1] = _share(tensor, shape[-1], n_head_kv)
        elif part == "attn_qkv":  # keys may be wider than values
            output = self._tensor(layer, "attn_output.weight")
            value = _share(output, output.shape[0], n_head)
            shape[-1] -= n_head_kv * value
            shape[-1] = 2 * _share(tensor, shape[-1], n_head + n_head_kv) + value
        elif part == "attn_output" and kind == "weight":
            shape[0] = _share(tensor, shape[0], n_head)
        elif not (part == "attn_output" and kind == "bias") and not NORM.search(part):
            raise Illegal(f"it is not known what {tensor.name} is of one head")
        return Added(tuple(shape), type=_holding(tensor.type, shape[0]).name)

    @cached_property
    def _widths(self) -> tuple[int, ...]:
        return _per_layer(Hparams(self.model), Key.FEED_FORWARD_LENGTH, None)

    def _values(self) -> dict[str, Value]:
        """Widths by layer, and the head sizes, which no longer follow from the first layer."""
        hparams = Hparams(self.model)
        values: dict[str, Value] = {}
        if any(layer.attn is None or layer.linear for layer in self.layers):
            few = [int(self._has_head(new)) for new in range(len(self.layers))]
            keys = (Key.HEAD_COUNT, Key.HEAD_COUNT_KV)
            for key, before in zip(keys, self._heads_before, strict=True):
                counts = [
                    few[new] if layer.attn is None
                    else 0 if layer.linear and key == Key.HEAD_COUNT_KV
                    else before[layer.attn]
                    for new, layer in enumerate(self.layers)
                ]  # fmt: skip
                values[hparams.key(key)] = _counts(counts)
            values |= self._head_sizes(hparams)
        if self.alone.ffn == "width_1" and any(layer.ffn is None for layer in self.layers):
            lengths = [1 if layer.ffn is None else self._widths[layer.ffn] for layer in self.layers]
            values[hparams.key(Key.FEED_FORWARD_LENGTH)] = _counts(lengths)
        return values

    def _head_sizes(self, hparams: Hparams) -> dict[str, Value]:
        missing = [key for key in HEAD_SIZES if hparams.value(key) is None]
        if not missing:
            return {}
        first = self._heads_before[0][0]
        if not first:
            raise Illegal(f"{hparams.key(missing[0])} is not stated and layer 0 has no heads")
        size = hparams.integer(Key.EMBEDDING_LENGTH) // first
        return {hparams.key(key): scalar(ValueType.UINT32, size) for key in missing}


def _counts(numbers: Sequence[int]) -> Value:
    odd = next((n for n in numbers if not 0 <= n <= MAX_U32), None)
    if odd is not None:
        raise Illegal(f"a layer cannot be {odd} wide")
    return array(ValueType.UINT32, numbers)


def _per_layer(hparams: Hparams, template: str, default: tuple[int, ...] | None) -> tuple[int, ...]:
    """An entry for every layer of the original. Raises Illegal where nothing is stated."""
    found, n_layer = hparams.per_layer(template), hparams.model.n_layer
    if found is not None:
        return found
    if hparams.value(template) is None:
        if default is None:
            raise Illegal(f"{hparams.key(template)} is not stated")
        return default
    return (hparams.integer(template),) * n_layer


def _narrowed(tensor: Tensor, width: int) -> tuple[int, ...]:
    """The shape of an FFN's tensor at a width of 1 instead of `width`.

    Raises Illegal for one that is not known.
    """
    part, shape = tensor.name.split(".", 2)[2], list(tensor.shape)
    if NORM.search(part) or part == "ffn_down.bias":
        return tensor.shape
    axis = next((a for pattern, a in _BY_WIDTH.items() if re.fullmatch(pattern, part)), None)
    if axis is None:
        raise Illegal(f"it is not known what {tensor.name} is at a width of 1")
    shape[axis] = _share(tensor, shape[axis], width)  # 2 where the gate is in the same matrix
    return tuple(shape)


def _share(tensor: Tensor, n: int, n_part: int) -> int:
    if not n_part or n % n_part:
        raise Illegal(f"{tensor.name}: {n} elements are not as many of each of {n_part}")
    return n // n_part


def _holding(wanted: TensorType, n: int) -> TensorType:
    """A type that rows of `n` can have: zeros are read with every token."""
    return wanted if n % wanted.block_size == 0 else tensor_type("F16")
