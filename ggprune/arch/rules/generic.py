"""Rules about metadata alone: what holds for every architecture, and keys of some of them."""

from __future__ import annotations

from dataclasses import dataclass, field

from ggprune.arch.change import Change
from ggprune.arch.hparams import HEAD_SIZES, PER_LAYER_ARRAYS, PREFIX_COUNTS, Illegal, Key, Removal
from ggprune.arch.rules.base import UNSAID, Rule
from ggprune.model.metadata import Value, ValueType, scalar


@dataclass(frozen=True, eq=False)
class Generic(Rule, binds=False):
    """Counts, prefix counts and per-layer arrays; MTP blocks stay together; head sizes stay.

    Holds for every architecture, so that no row names it.
    """

    experts_by_layer: bool = False

    def change(self, removal: Removal) -> Change:
        counts = {Key.BLOCK_COUNT: len(removal.keep), **_mtp_count(removal)}
        for template in PREFIX_COUNTS:
            if removal.value(template) is not None:
                prefix = removal.integer(template)
                counts[template] = sum(1 for layer in removal.keep if layer < prefix)
        values = {removal.key(t): removal.with_type_of(t, n) for t, n in counts.items()}
        for template in (*PER_LAYER_ARRAYS, *(removal.unknown_arrays if removal.trust else ())):
            if removal.is_array(template):
                values[removal.key(template)] = removal.sliced(template)
        values |= _head_sizes(removal)
        if not self.experts_by_layer:
            _check_experts(removal)
        return Change(values=values, notes=_template_note(removal))


def _mtp_count(removal: Removal) -> dict[str, int]:
    """The number of MTP blocks where it changes."""
    n_layer = removal.model.n_layer
    n_mtp, n_mtp_kept = n_layer - removal.n_trunk, len(removal.keep) - len(removal.trunk)
    if n_mtp_kept not in (0, n_mtp):
        raise Illegal(
            f"layers {removal.n_trunk} to {n_layer - 1} are multi-token-prediction (MTP) blocks, "
            "which stay or go together (--drop-mtp)"
        )
    return {Key.NEXTN: 0} if n_mtp and not n_mtp_kept else {}


def _head_sizes(removal: Removal) -> dict[str, Value]:
    """Where head sizes are not stated, llama.cpp derives them from layer 0's number of heads."""
    heads, first = removal.per_layer(Key.HEAD_COUNT, n_least=1), removal.keep[0]
    if heads is None or not 0 < first < len(heads):  # an encoder's may not speak of the decoder
        return {}
    if heads[0] and not heads[first]:
        raise Illegal(f"layer {first} would come first and has no attention heads")
    missing = [key for key in HEAD_SIZES if removal.value(key) is None]
    if not missing or heads[first] == heads[0]:
        return {}
    size = removal.integer(Key.EMBEDDING_LENGTH) // heads[0] if heads[0] else 0
    if size == 0:
        raise Illegal(f"the head size follows from layer 0's {heads[0]} heads and is not stated")
    return {removal.key(key): scalar(ValueType.UINT32, size) for key in missing}


def _check_experts(removal: Removal) -> None:
    """Most graphs pick as many experts as layer 0 says, and add up as many as each layer says.

    `n_expert_used()` in llama-hparams.h, `build_moe_ffn` in llama-graph.cpp.
    """
    used, first = removal.per_layer(Key.EXPERTS_USED), removal.keep[0]
    if used is not None and used[first] != used[0]:
        raise Illegal(
            f"layer {first} would come first and uses {used[first]} experts: llama.cpp picks as "
            f"many in every layer as the first one uses, which are {used[0]} now"
        )


def _template_note(removal: Removal) -> tuple[str, ...]:
    """`llama_model_chat_template` (llama-model.cpp) knows one model by its 40 layers."""
    metadata = removal.model.metadata
    pre = removal.model.text("tokenizer.ggml.pre")
    if removal.n_trunk != 40 or pre != "tekken" or "tokenizer.chat_template" in metadata:
        return ()
    return (
        "the file has no chat template, and llama.cpp will no longer recognise the model by its "
        "40 layers: name the template yourself (--chat-template mistral-v7-tekken)",
    )


@dataclass(frozen=True, eq=False)
class Sliced(Rule, binds=False):
    """Per-layer arrays outside the architecture's own keys."""

    keys: tuple[str, ...] = field(metadata=UNSAID)

    def change(self, removal: Removal) -> Change:
        stated = [key for key in self.keys if removal.is_array(key)]
        return Change(values={key: removal.sliced(key) for key in stated})


@dataclass(frozen=True, eq=False)
class NotSet(Rule, binds=True):
    """A key that makes layers differ in a way that is not handled."""

    key: str
    why: str

    def change(self, removal: Removal) -> Change:
        if removal.is_array(self.key) or removal.number(self.key):
            raise Illegal(f"{removal.key(self.key)} is set: {self.why}")
        return Change()
