"""What a file that ggprune has pruned has kept of the model that it was made of."""

from __future__ import annotations

from ggprune.errors import DataError
from ggprune.model.cut import Cut
from ggprune.model.model import Model
from ggprune.model.newlayer import NewLayer
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
    left = list(range(2 * base.n_layer))
    for step in steps[fingerprints.index(base.fingerprint) :]:
        gone = frozenset(step.drop.units)
        left = [unit for i, unit in enumerate(left) if i not in gone]
    return Cut.of_units(set(range(2 * base.n_layer)).difference(left)).remaining(base.n_layer)
