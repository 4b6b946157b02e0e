"""Rules about tensors: groups of them that go with layers, and weights that carry a constant.

Like the others, but what they change is more than numbers in the metadata.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ggprune.arch.change import Added, Change, Edit, Scale, Slice
from ggprune.arch.hparams import Illegal, Key, Removal
from ggprune.arch.rules.base import UNSAID, Rule
from ggprune.errors import FormatError
from ggprune.model.metadata import ValueType, array
from ggprune.model.names import LAYER_EMBEDDING, rename_block
from ggprune.model.unit import Unit

ROUNDED = "equal to leaving the layers out up to the rounding of 32-bit floats"
PER_LAYER_PROJECTION = "per_layer_model_proj.weight"
EMBEDDING_LAYERS = "{arch}.ple.layers"


@dataclass(frozen=True, eq=False)
class Slices(Rule, binds=False, half=Unit.FFN):
    """Embeddings per layer: one group per layer within rows, and the projection's groups of rows.

    gemma3n.cpp and gemma4.cpp, `load_arch_tensors`.
    """

    def change(self, removal: Removal) -> Change:
        edits: dict[str, Edit] = {}
        for name, axis in {LAYER_EMBEDDING: 0, PER_LAYER_PROJECTION: 1}.items():
            tensor = removal.model.by_name.get(name)
            if tensor is None:
                continue
            n_group = removal.n_trunk
            if len(tensor.shape) <= axis:
                raise Illegal(f"{name} has {len(tensor.shape)} dimension, expected 2")
            block = tensor.type.block_size if axis == 0 else 1
            if tensor.shape[axis] % (n_group * block):
                raise Illegal(
                    f"{name} stores {tensor.shape[axis]} elements of {n_group} layers as "
                    f"{tensor.type.name}, whose blocks do not end with a layer's"
                )
            edits[name] = Slice(axis, n_group, removal.trunk)
        return Change(edits=edits)


@dataclass(frozen=True, eq=False)
class OneEmbeddingLayer(Rule, binds=False):
    """One layer takes in n-gram embeddings (qwen4exp.cpp:71-86): its number follows or all goes."""

    def change(self, removal: Removal) -> Change:
        key = removal.key(EMBEDDING_LAYERS)
        layers = removal.fields.integers(key, ())
        if not layers:
            return Change()
        layer, *others = layers
        if others or not 0 <= layer < removal.model.n_layer:
            raise FormatError(f"{removal.model.path}: {key} is {layers}, expected one layer")
        if layer in removal.keep:
            element = removal.model.metadata[key].element_type or ValueType.UINT32
            return Change(values={key: array(element, [removal.keep.index(layer)])})
        prefix = removal.key("{arch}.ple.")
        gone = frozenset(key for key in removal.model.metadata if key.startswith(prefix))
        return Change(gone=gone, dropped=frozenset({LAYER_EMBEDDING}))


@dataclass(frozen=True, eq=False)
class AttentionScale(Rule, binds=False, half=Unit.ATTN):
    """At one depth the attention's scale is 1/sqrt(n_embd / n_head), else 1/sqrt(head size).

    gemma2.cpp:17-27, gemma3.cpp:18-31. The quotient goes into the queries: into their norm's
    weights, or into a `.scale` tensor, so that no weight is touched.
    """

    depth: int
    tensor: str

    def change(self, removal: Removal) -> Change:
        if removal.n_trunk != self.depth:
            if len(removal.trunk) == self.depth:
                raise Illegal(f"with {self.depth} layers llama.cpp takes another attention scale")
            return Change()
        n_head, head_size = removal.n_head, removal.integer(Key.KEY_LENGTH)
        n_embd = removal.integer(Key.EMBEDDING_LENGTH)
        if not n_head or not head_size or n_embd < n_head:
            raise Illegal("the attention's scale cannot be told from the metadata")
        # The scale at the one depth by the scale at the others.
        factor = math.sqrt(head_size / (n_embd // n_head))
        edits: dict[str, Edit] = {}
        added: dict[str, Added] = {}
        tensors = removal.model.by_name
        for new, old in enumerate(removal.trunk):
            name, bias = f"blk.{old}.{self.tensor}", f"blk.{old}.attn_q.bias"
            if name in tensors:
                edits[name] = _exact_scale(removal, name, factor)
            elif name.endswith(".scale") and f"blk.{old}.attn_q.weight" in tensors:
                added[rename_block(name, new)] = Added((1,), (factor,))
            else:
                raise Illegal(f"{name} is missing, which would carry the attention's scale")
            if name.endswith(".scale") and bias in tensors:  # it is added behind the scale
                edits[bias] = _exact_scale(removal, bias, factor)
        note = f"the attention scale of {self.depth}-layer models is carried by {self.tensor}: "
        return Change(edits=edits, added=added, notes=(note + ROUNDED,))


@dataclass(frozen=True, eq=False)
class RescaledByDepth(Rule, binds=False):
    """Every layer's two branches are divided by sqrt(number of layers) (minicpm3.cpp:197-220)."""

    tensors: tuple[str, ...] = field(metadata=UNSAID)  # the last of each branch

    def change(self, removal: Removal) -> Change:
        factor = math.sqrt(len(removal.trunk) / removal.n_trunk)
        names = [f"blk.{layer}.{part}" for layer in removal.trunk for part in self.tensors]
        missing = [name for name in names if name not in removal.model.by_name]
        if missing:
            raise Illegal(f"{missing[0]} is missing, which would have to be rescaled")
        edits = {name: _exact_scale(removal, name, factor) for name in names}
        note = f"llama.cpp scales by the number of layers; the weights make up for it: {ROUNDED}"
        return Change(edits=edits, notes=(note,))


def _exact_scale(removal: Removal, name: str, factor: float) -> Scale:
    kind = removal.model.by_name[name].type.name
    if kind != "F32":
        raise Illegal(
            f"{name} would have to be multiplied by {factor:.6g} and cannot be as {kind} without "
            "loss: convert the model to F32 first (ggprune quantize --type F32), prune, requantize"
        )
    return Scale(factor)
