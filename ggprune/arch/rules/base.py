"""What every rule is: typed facts of one architecture, and what follows from them.

Knows no architecture. A rule's class says what llama.cpp does, its fields are what differs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from ggprune.arch.change import Change
from ggprune.arch.hparams import Flags, Hparams, Removal
from ggprune.model.unit import Unit

# When a rule holds: always, or in models that state the size of their sliding windows.
Condition = Literal["if_stated"]

# Of fields that hold names of the graph or serve `traits`: docs/architectures.md leaves them out.
UNSAID: Mapping[str, bool] = {"unsaid": True}


@dataclass(frozen=True, eq=False)
class Rule(ABC):
    """One thing that a layer's position means to an architecture.

    The first paragraph of a rule's docstring is its sentence in docs/architectures.md. Nothing
    compares rules, so no methods for it are generated: they took a third of the import's time.
    """

    # Does it forbid sets of layers? A rule that is only followed forbids no set but those with the
    # last layer of a kind, and what the file at hand happens not to allow.
    binds: ClassVar[bool]
    # The half of a layer that it speaks of, if it is one.
    half: ClassVar[Unit | None]

    def __init_subclass__(cls, *, binds: bool, half: Unit | None = None) -> None:
        cls.binds, cls.half = binds, half

    @classmethod
    def sentence(cls) -> str:
        """What llama.cpp does with the position, as the documentation says it."""
        return " ".join((cls.__doc__ or "").split("\n\n")[0].split())

    @abstractmethod
    def change(self, removal: Removal) -> Change:
        """What changes when only some layers remain. Raises Illegal with the reason if that
        cannot be exact."""

    def windows(self, hparams: Hparams) -> Flags | None:
        """Which layers of the whole model have a sliding window, None if the rule does not say."""
        return None

    def traits(self, hparams: Hparams, windows: Flags | None) -> Mapping[int, str]:
        """A word about some layers of the whole model, whose `windows` are known by then."""
        return {}


def holds(condition: Condition | None, hparams: Hparams) -> bool:
    """Does a rule with this condition hold for the model?"""
    return condition is None or hparams.has_windows
