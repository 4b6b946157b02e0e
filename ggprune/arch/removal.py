"""A model and the layers that would remain of it.

Knows how a number or an array of the metadata follows them, not which ones have to.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from ggprune.arch.hparams import Hparams
from ggprune.arch.keys import UNCHECKED_ARRAYS
from ggprune.errors import ArchitectureError, FormatError
from ggprune.model import Value
from ggprune.model.metadata import SCALAR_FORMATS, scalar


class Illegal(ArchitectureError):  # noqa: N818  a legal set is the opposite, not an "error"
    """These layers cannot be removed together; another set may be."""


@dataclass(frozen=True)
class Removal(Hparams):
    """A model and the layers that would remain of it."""

    keep: tuple[int, ...]
    trust: bool = False  # slice arrays that look per-layer and are not known

    @cached_property
    def trunk(self) -> tuple[int, ...]:
        """The trunk's layers that remain."""
        return tuple(n for n in self.keep if n < self.n_trunk)

    def with_type_of(self, template: str, number: float) -> Value:
        """A number in the type that the key has in the file."""
        old = self.model.metadata[self.key(template)]
        if old.type not in SCALAR_FORMATS:
            raise FormatError(f"{self.model.path}: {self.key(template)} is not a number")
        return scalar(old.type, number)

    def sliced(self, template: str) -> Value:
        """A per-layer array without the entries of the layers that go, element type kept."""
        value, n_layer = self.model.metadata[self.key(template)], self.model.n_layer
        n_entry = value.array_len or 0
        if n_entry == n_layer or (n_entry > n_layer and template in UNCHECKED_ARRAYS):
            return value.select([*self.keep, *range(n_layer, n_entry)])
        if n_entry == self.n_trunk:
            return value.select(self.trunk)
        if n_entry == self.model.stacks[0][1]:  # of an encoder, whose decoder has none
            return value.select([n for n in self.keep if n < n_entry])
        raise FormatError(
            f"{self.model.path}: {self.key(template)} has {value.array_len} entries, "
            f"expected block_count = {n_layer}"
        )
