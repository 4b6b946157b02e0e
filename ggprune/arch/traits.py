"""What each layer of a model is, as far as its metadata and its architecture tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ggprune.arch.architecture import architecture_table
from ggprune.arch.removal import INDEXER_TYPES, SHARED_KV, SLIDING_WINDOW, Removal
from ggprune.arch.schedules import swa_flags
from ggprune.model import Model

GEMMA3N_OWN_KV = 20  # gemma3n.cpp:7


def layer_traits(model: Model) -> tuple[tuple[str, ...], ...]:
    """For every layer: encoder or decoder, MTP, recurrent, window of N, NoPE, keys of layer N,
    index of layer N.

    Empty for plain attention over everything, and for layers of an unknown architecture.
    """
    row = architecture_table().get(model.arch, {})
    rules = {rule["rule"]: rule for rule in row.get("rules", ())}
    removal = Removal(model, tuple(range(model.n_layer)))
    window, recurrent = _windows(removal, rules), _recurrent(removal, rules)
    traits: list[list[str]] = [[] for _ in range(model.n_layer)]
    for n in range(model.n_layer):
        if len(model.stacks) > 1:
            traits[n].append("encoder" if n < model.stacks[0][1] else "decoder")
        if n >= removal.n_trunk:
            traits[n].append("MTP")
            continue
        if recurrent is not None and recurrent[n]:
            traits[n].append("recurrent")
        elif window is not None and window[n]:
            size = removal.number(SLIDING_WINDOW)
            traits[n].append(f"window {size}" if size else "window")
        if _has_no_rope(n, row.get("no_rope"), window):
            traits[n].append("NoPE")
    _add_lenders(traits, removal, rules, window)
    return tuple(tuple(words) for words in traits)


def _windows(removal: Removal, rules: Mapping[str, Any]) -> tuple[bool, ...] | None:
    rule = rules.get("swa_period") or rules.get("swa_array")
    if rule is None:
        return None
    if rule.get("window") == "if_stated" and not removal.number(SLIDING_WINDOW):
        return None
    if removal.swa is not None:
        return removal.swa
    if "period" not in rule:
        return None
    period = removal.period(rule["period"])
    return swa_flags(period, removal.n_trunk, dense_first=rule.get("dense_first", False))


def _recurrent(removal: Removal, rules: Mapping[str, Any]) -> tuple[bool, ...] | None:
    if "both_kinds" not in rules:
        return None
    return removal.recurrent(rules["both_kinds"].get("interval"))


def _has_no_rope(n: int, where: Any, window: tuple[bool, ...] | None) -> bool:
    if where is None:
        return False
    if where == "full":
        return window is not None and not window[n]
    return bool(n % where["p"] == where["at"])


def _add_lenders(
    traits: list[list[str]],
    removal: Removal,
    rules: Mapping[str, Any],
    window: tuple[bool, ...] | None,
) -> None:
    if "shared_kv" in rules and window is not None:
        first = removal.model.n_layer - removal.number(SHARED_KV)
        if removal.model.arch == "gemma3n":
            first = GEMMA3N_OWN_KV
        for n in range(first, removal.n_trunk):
            traits[n].append(f"keys of layer {first - (2 if window[n] else 1)}")
    types = removal.items(INDEXER_TYPES)
    if "shared_index" in rules and types is not None:
        lender = 0
        for n in range(min(len(types), removal.n_trunk)):
            if types[n]:
                lender = n
            else:
                traits[n].append(f"index of layer {lender}")
