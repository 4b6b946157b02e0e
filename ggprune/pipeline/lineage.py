"""What a file that ggprune has pruned has kept of the model that it was made of."""

from __future__ import annotations

from collections.abc import Sequence

from ggprune.errors import DataError
from ggprune.model.model import Model
from ggprune.model.newlayer import NewLayer, whole
from ggprune.surgery.contents import prunings_of


def kept_layers(base: Model, pruned: Model | None) -> tuple[NewLayer, ...]:
    """What the layers of a file pruned from `base` are made of, as its metadata says.

    It may have been pruned several times. Raises DataError if it was not pruned by ggprune, or from
    another model.
    """
    assert pruned is not None
    steps = prunings_of(pruned)
    if not steps:
        raise DataError(f"{pruned.path}: was not pruned by ggprune: say which layers to drop")
    fingerprints = [step.fingerprint for step in steps]
    if base.fingerprint not in fingerprints:
        raise DataError(
            f"{pruned.path}: was pruned from another model than {base.path}: its source's "
            f"fingerprint is {fingerprints[-1][:12]}..., this one's {base.fingerprint[:12]}..."
        )
    layers = whole(*range(base.n_layer))
    for step in steps[fingerprints.index(base.fingerprint) :]:
        layers = tuple(_made_of(layers, layer) for layer in step.drop.remaining(len(layers)))
    return layers


def _made_of(before: Sequence[NewLayer], layer: NewLayer) -> NewLayer:
    """A layer of the next file, whose halves are of layers of the one before, by the original's."""
    attn = before[layer.attn].attn if layer.attn is not None else None
    ffn = before[layer.ffn].ffn if layer.ffn is not None else None
    was_linear = layer.attn is not None and before[layer.attn].linear
    return NewLayer(attn, ffn, layer.linear or was_linear)
