"""What a model takes: bytes on disk, parameters, and bytes read from memory for every new token.

Generating one token reads all weights once, and little else while the context is short, so the
bytes say how much faster a smaller model can be. Nothing is measured here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated

from ggprune.arch.change import Added, Change
from ggprune.arch.experts import holds_experts
from ggprune.arch.hparams import mtp_blocks, n_trunk
from ggprune.arch.legal import removal_change
from ggprune.arch.table import ArchitectureRow, architecture_table
from ggprune.errors import ArchitectureError
from ggprune.model.cut import Cut
from ggprune.model.gguf import Tensor
from ggprune.model.model import Model
from ggprune.model.names import HEAD, TOKEN_EMBEDDING, Role, block_of, half_of, roles_of
from ggprune.model.types import tensor_type
from ggprune.model.unit import HALVES, Unit


@dataclass(frozen=True)
class Footprint:
    """What one model takes."""

    size_bytes: Annotated[int, "of the file"]
    n_param: int
    token_bytes: Annotated[int, "read for every token that is generated, without the KV cache"]


class Footprints:
    """Those of a model without some of its layers."""

    def __init__(self, model: Model, idle: Iterable[int] = ()) -> None:
        """`idle` are layers that generating does not read: MTP blocks."""
        self.model, self.idle = model, frozenset(idle)
        self._known_stubs: dict[tuple[int, Unit], Footprint] = {}

    def without(self, drop: Cut | Iterable[int]) -> Footprint:
        """The footprint without the layers `drop`; the file's size up to the header's change."""
        cut = drop if isinstance(drop, Cut) else Cut.of(drop)
        cut = cut.tidy
        gone = [self._units[n] for n in cut.units]
        gone += [self._of_experts(layer, len(experts)) for layer, experts in cut.experts.items()]
        alone = [layer for layer in cut.remaining(self.model.n_layer) if layer.missing]
        come = [self._stubs(layer.first, layer.missing) for layer in alone if layer.missing]
        come += [self._hosting] * bool(alone or cut.linear)
        come += [self._linear(n) for n in cut.linear]
        gone += [self._units[2 * n] for n in cut.linear]
        whole = self._whole
        return Footprint(
            whole.size_bytes + sum(f.size_bytes for f in come) - sum(f.size_bytes for f in gone),
            whole.n_param + sum(f.n_param for f in come) - sum(f.n_param for f in gone),
            whole.token_bytes + sum(f.token_bytes for f in come) - sum(f.token_bytes for f in gone),
        )

    def speedup(self, drop: Cut | Iterable[int]) -> float:
        """How much faster tokens are generated if memory is what limits it."""
        return self._whole.token_bytes / max(self.without(drop).token_bytes, 1)

    def _stubs(self, layer: int, half: Unit) -> Footprint:
        """What stands in the place of a half that leaves alone."""
        if (layer, half) not in self._known_stubs:
            added = self._change_without(layer, half).added
            self._known_stubs[layer, half] = _added([
                tensor for name, tensor in added.items()
                if block_of(name) == ("", layer) and Role.SHARED not in roles_of(name)
            ])  # fmt: skip
        return self._known_stubs[layer, half]

    def _linear(self, layer: int) -> Footprint:
        """A matrix in an attention's place, and the norm in front of it."""
        layers = Cut.of_linear([layer]).remaining(self.model.n_layer)
        try:
            added = removal_change(self.model, layers).added
        except ArchitectureError:
            return Footprint(0, 0, 0)
        norm = self._of([self.model.by_name[f"blk.{layer}.attn_norm.weight"]])
        matrix = _added(list(added.values()))
        return Footprint(
            norm.size_bytes + matrix.size_bytes, norm.n_param + matrix.n_param,
            norm.token_bytes + matrix.token_bytes,
        )  # fmt: skip

    @cached_property
    def _hosting(self) -> Footprint:
        """What storing the model as another architecture adds, once: shared experts of zeros, and a
        second copy of the embeddings, of which generating then reads one row more."""
        layer = n_trunk(self.model) - 1
        changes = [self._change_without(layer, half) for half in HALVES]
        copies = {self.model.by_name[name] for c in changes for name in c.copied.values()}
        shared = {
            name: tensor for change in changes for name, tensor in change.added.items()
            if Role.SHARED in roles_of(name)
        }  # fmt: skip
        added = _added(list(shared.values()))
        return Footprint(
            added.size_bytes + sum(t.size_bytes for t in copies),
            added.n_param + sum(t.n_element for t in copies),
            added.token_bytes + sum(t.size_bytes // max(t.shape[-1], 1) for t in copies),
        )

    def _change_without(self, layer: int, half: Unit) -> Change:
        """Nothing, where that cannot be."""
        try:
            return removal_change(self.model, Cut.of((layer,), half).remaining(self.model.n_layer))
        except ArchitectureError:
            return Change()

    @cached_property
    def _whole(self) -> Footprint:
        model, tensors = self.model, self._of(self.model.tensors)
        unread = sum(self._of(model.layers[n]).token_bytes for n in self.idle)
        return Footprint(model.size_bytes, tensors.n_param, tensors.token_bytes - unread)

    @cached_property
    def _units(self) -> tuple[Footprint, ...]:
        """Of the attention and the FFN of every layer, one behind the other."""
        row = architecture_table().architectures.get(self.model.arch)
        ffn = row.ffn_tensors if isinstance(row, ArchitectureRow) else ()
        units = []
        for n, tensors in enumerate(self.model.layers):
            in_ffn = [half_of(t.name, ffn) is Unit.FFN for t in tensors]
            for wanted in (False, True):
                half = [t for t, is_ffn in zip(tensors, in_ffn, strict=True) if is_ffn is wanted]
                unit = self._of(half)
                units.append(replace(unit, token_bytes=0) if n in self.idle else unit)
        return tuple(units)

    def _of_experts(self, layer: int, n: int) -> Footprint:
        """What a layer's experts take on disk: generating a token reads as many as before."""
        n_expert = self.model.fields.integer(f"{self.model.arch}.expert_count", 0)
        parts = [t for t in self.model.layers[layer] if holds_experts(t.name, t.shape, n_expert)]
        return Footprint(
            sum(t.size_bytes * n // n_expert for t in parts),
            sum(t.n_element * n // n_expert for t in parts), 0,
        )  # fmt: skip

    def _of(self, tensors: Sequence[Tensor]) -> Footprint:
        alignment = self.model.alignment
        return Footprint(
            sum(-(-t.size_bytes // alignment) * alignment for t in tensors),
            sum(t.n_element for t in tensors),
            round(sum(t.size_bytes * self._share_read(t) for t in tensors)),
        )

    def _share_read(self, tensor: Tensor) -> float:
        """The share of a tensor that one token needs."""
        roles = roles_of(tensor.name)
        if Role.EXPERTS in roles:
            return self._share_of_experts
        # Embeddings are the output matrix as well where the file has no other.
        is_output = tensor.name == TOKEN_EMBEDDING and HEAD not in self.model.by_name
        return 1 / max(tensor.shape[-1], 1) if Role.TABLE in roles and not is_output else 1.0

    @cached_property
    def _share_of_experts(self) -> float:
        fields, used = self.model.fields, f"{self.model.arch}.expert_used_count"
        n_all = fields.integer(f"{self.model.arch}.expert_count", 0)
        n_used = max(fields.integers(used), default=0) if fields.is_array(used) else (
            fields.integer(used, n_all)
        )  # fmt: skip
        return min(n_used / n_all, 1.0) if n_all else 1.0


def _added(tensors: Sequence[Added]) -> Footprint:
    size = sum(tensor_type(t.type).size_bytes(t.shape) for t in tensors)
    return Footprint(size, sum(math.prod(t.shape) for t in tensors), size)


def footprints_of(model: Model) -> Footprints:
    """Of a model whose MTP blocks are not used to generate."""
    return Footprints(model, mtp_blocks(model))
