"""Runs an architecture's rules on a removal: what changes, or why it cannot be exact.

Knows no rule by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ggprune.arch.architecture import architecture_of
from ggprune.arch.change import Change
from ggprune.arch.removal import Illegal, Removal
from ggprune.arch.rules import Generic, Rule
from ggprune.model import Model


def removal_change(model: Model, keep: Sequence[int], *, trust: bool = False) -> Change:
    """Everything that changes when only the layers `keep` (sorted) remain.

    Raises Illegal (an ArchitectureError) with the reasons if the result would not be exact,
    FormatError if a per-layer array does not have one entry per layer.
    """
    row = architecture_of(model, trust=trust).row
    try:
        return _change_by(row.rules, Removal(model, tuple(keep), trust))
    except Illegal as e:
        raise Illegal(
            f"{model.path}: not exact for {model.arch}: {e} (llama.cpp {row.source})"
        ) from e


def is_legal(model: Model, keep: Sequence[int], *, trust: bool = False) -> bool:
    """Can exactly these layers remain? Raises ArchitectureError if the architecture is refused."""
    rules = architecture_of(model, trust=trust).row.rules
    try:
        _change_by(rules, Removal(model, tuple(keep), trust))
    except Illegal:
        return False
    return True


def _change_by(rules: Iterable[Rule], removal: Removal) -> Change:
    """What all rules change together. Raises Illegal with the reasons of all that object."""
    change, reasons = Change(), []
    for rule in (Generic(), *rules):
        try:
            change |= rule.change(removal)
        except Illegal as e:
            reasons.append(str(e))
    if reasons:
        raise Illegal("; ".join(reasons))
    return change
