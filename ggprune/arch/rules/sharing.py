"""Rules about layers that use what another layer made, or what enters at one layer for all."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from ggprune.arch.change import Change
from ggprune.arch.hparams import Flags, Hparams, Illegal, Key, Removal
from ggprune.arch.rules.base import UNSAID, Rule
from ggprune.model.metadata import ValueType, array, scalar
from ggprune.model.names import rename_block
from ggprune.model.unit import Unit

ROPE_FREQS = "rope_freqs.weight"
POSITION_BIASES = (
    "enc.blk.0.attn_rel_b.weight", "dec.blk.0.attn_rel_b.weight",
    "dec.blk.0.cross_attn_rel_b.weight",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class SharedKv(Rule, binds=True, half=Unit.ATTN):
    """The last layers use keys and values of the last two layers that have their own.

    gemma4.cpp:8-11, `reuse` in llama-model.cpp; gemma3n.cpp:7 knows its layer 20 by number.
    """

    rope_freqs: bool = field(default=False, metadata=UNSAID)  # only layers without windows use it
    own_kv: int | None = field(default=None, metadata=UNSAID)  # layers with their own, by number

    def change(self, removal: Removal) -> Change:
        first = _first_shared(removal)
        n_kept = sum(1 for n in removal.keep if n >= first)
        if len(removal.keep) < 2:
            raise Illegal("at least 2 layers must stay: llama.cpp needs them for shared keys")
        if n_kept and not {first - 2, first - 1} <= set(removal.keep):
            raise Illegal(
                f"layers {first - 2} and {first - 1} hold the keys and values that the layers "
                f"from {first} on use, and must stay with them"
            )
        values, windows = {}, removal.swa
        if removal.value(Key.SHARED_KV) is not None:
            values[removal.key(Key.SHARED_KV)] = removal.with_type_of(Key.SHARED_KV, n_kept)
        unused = self.rope_freqs and windows is not None and all(windows[n] for n in removal.trunk)
        return Change(values=values, dropped=frozenset({ROPE_FREQS} if unused else ()))

    def traits(self, hparams: Hparams, windows: Flags | None) -> Mapping[int, str]:
        if windows is None:
            return {}
        first = self.own_kv
        if first is None:
            first = _first_shared(hparams)
        return {
            n: f"keys of layer {first - (2 if windows[n] else 1)}"
            for n in range(first, hparams.n_trunk)
        }


def _first_shared(hparams: Hparams) -> int:
    """The first layer without keys and values of its own; two must have some."""
    n_layer = hparams.model.n_layer
    return n_layer - hparams.integer(Key.SHARED_KV, most=max(n_layer - 2, 0))


@dataclass(frozen=True, eq=False)
class SharedIndex(Rule, binds=True, half=Unit.ATTN):
    """Layers without an indexer attend to what the indexer of the nearest layer before chose.

    That layer must stay as long as one that depends on it stays.
    """

    shares_from_context: int | None = None  # context length from which the table is hard-coded
    hybrid: bool = False

    def change(self, removal: Removal) -> Change:
        if not removal.integer(Key.INDEXER_TOP_K):
            return Change()
        types = removal.per_layer(Key.INDEXER_TYPES)
        if types is None and removal.value(Key.INDEXER_TYPES) is not None:
            types = (removal.integer(Key.INDEXER_TYPES),) * removal.n_trunk
        has_own = self._by_default(removal) if types is None else [bool(t) for t in types]
        recurrent = removal.recurrent() if self.hybrid else None
        provider = None
        for n in range(removal.n_trunk):
            if recurrent is not None and recurrent[n]:
                continue  # recurrent layers use no index
            if has_own[n]:
                provider = n
            elif n in removal.keep and provider not in removal.keep:
                raise Illegal(
                    f"layer {n} uses the index of layer {provider}, which must stay with it"
                )
        if types is not None or all(has_own):
            return Change()
        kept = [int(has_own[n]) for n in removal.trunk]
        return Change(values={removal.key(Key.INDEXER_TYPES): array(ValueType.UINT32, kept)})

    def traits(self, hparams: Hparams, windows: Flags | None) -> Mapping[int, str]:
        words, provider = {}, 0
        for n, has_own in enumerate(hparams.per_layer(Key.INDEXER_TYPES) or ()):
            if has_own:
                provider = n
            else:
                words[n] = f"index of layer {provider}"
        return words

    def _by_default(self, removal: Removal) -> list[bool]:
        """glm-dsa.cpp: all layers, but GLM 5.2 is known by its context length."""
        shares_from = math.inf if self.shares_from_context is None else self.shares_from_context
        if removal.integer("{arch}.context_length") < shares_from:
            return [True] * removal.n_trunk
        return [n < 2 or (n < 78 and n % 4 == 2) for n in range(removal.n_trunk)]


@dataclass(frozen=True, eq=False)
class Deepstack(Rule, binds=False):
    """Which input stream each layer takes in (-1: none): every stream must still be taken in, and
    a layer that comes first instead of layer 0 takes in none (granite.cpp:153)."""

    def change(self, removal: Removal) -> Change:
        streams = removal.per_layer(Key.DEEPSTACK)
        if streams is None:
            return Change()
        lost = {streams[n] for n in range(len(streams)) if n not in removal.keep} - {-1}
        if lost - {streams[n] for n in removal.trunk}:
            where = "enter at a layer that would be gone"
            raise Illegal(f"image embeddings of stream {min(lost)} {where}")
        first = removal.keep[0]
        if first and streams[first] >= 0:
            raise Illegal(
                f"image embeddings of stream {streams[first]} enter at layer {first}, which would "
                "come first: llama.cpp adds none there"
            )
        return Change(values={removal.key(Key.DEEPSTACK): removal.sliced(Key.DEEPSTACK)})


@dataclass(frozen=True, eq=False)
class TwoStacks(Rule, binds=True):
    """An encoder and a decoder, whose first layer's position biases serve all (t5.cpp:146,305)."""

    def change(self, removal: Removal) -> Change:
        n_encoder, rest = removal.model.stacks[0][1], removal.model.stacks[1:]
        encoder = [n for n in removal.keep if n < n_encoder]
        decoder = [n for n in removal.keep if n >= n_encoder]
        if not encoder or (rest and not decoder):
            raise Illegal("at least one layer of the encoder and one of the decoder must stay")
        if len(decoder) > len(encoder):
            raise Illegal("llama.cpp needs an encoder at least as deep as the decoder")
        values = {removal.key(Key.BLOCK_COUNT): removal.with_type_of(Key.BLOCK_COUNT, len(encoder))}
        if rest:
            n_decoder = scalar(ValueType.UINT32, len(decoder))
            values[removal.key(Key.DECODER_BLOCK_COUNT)] = n_decoder
        first = {0: encoder[0], **({n_encoder: decoder[0]} if decoder else {})}
        return Change(values=values, moved=_moved_biases(removal, first))


def _moved_biases(removal: Removal, first: Mapping[int, int]) -> dict[str, str]:
    """Biases that stay in block 0 when their layer goes. `first`: new first layers by old ones."""
    moved: dict[str, str] = {}
    tensors = removal.model.by_name
    for name in (bias for bias in POSITION_BIASES if bias in tensors):
        old_first = removal.model.layer_of(name) or 0
        shift = first[old_first] - old_first
        if shift and rename_block(name, shift) not in tensors:
            moved[name] = name
    return moved
