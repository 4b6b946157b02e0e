"""What a removal changes besides leaving out blocks: metadata, and the few tensors that follow.

Data only. `rules` decide it, `surgery` carries it out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ggprune.model.metadata import Value


@dataclass(frozen=True)
class Slice:
    """Keep some of the equal groups that a tensor holds, one per layer or expert, along an axis.

    Axis 0 lies within rows, axis 1 counts rows, axis 2 matrices, as in ggml's shapes.
    """

    axis: int
    n_group: int
    kept: tuple[int, ...]


@dataclass(frozen=True)
class Scale:
    """Multiply every element of an F32 tensor."""

    factor: float


Edit = Slice | Scale


@dataclass(frozen=True)
class Added:
    """A tensor that the source does not have: F32 numbers, or zeros of any type."""

    shape: tuple[int, ...]  # ggml order
    values: tuple[float, ...] = ()  # none: zeros
    type: str = "F32"


@dataclass(frozen=True, kw_only=True)
class Change:
    """Everything that differs, block numbers aside. Tensor names are old names."""

    values: Mapping[str, Value] = field(default_factory=dict)
    gone: frozenset[str] = frozenset()  # metadata keys
    arch: str | None = None  # the architecture that computes the result, if another one must
    moved: Mapping[str, str] = field(default_factory=dict)  # tensors with a new name of their own
    dropped: frozenset[str] = frozenset()  # tensors outside the layers that nothing uses any more
    edits: Mapping[str, Edit] = field(default_factory=dict)
    added: Mapping[str, Added] = field(default_factory=dict)  # by new name
    copied: Mapping[str, str] = field(default_factory=dict)  # new name of a second copy: the old
    notes: tuple[str, ...] = ()  # what a user must know about the result

    def __or__(self, other: Change) -> Change:
        return Change(
            values={**self.values, **other.values},
            gone=self.gone | other.gone,
            arch=other.arch or self.arch,
            moved={**self.moved, **other.moved},
            dropped=self.dropped | other.dropped,
            edits={**self.edits, **other.edits},
            added={**self.added, **other.added},
            copied={**self.copied, **other.copied},
            notes=self.notes + other.notes,
        )
