"""What each layer of a model is, as far as its metadata and its architecture tell.

The words come from the rules; here they are put together. Knows no architecture.
"""

from __future__ import annotations

from collections.abc import Sequence

from ggprune.arch.hparams import Flags, Hparams
from ggprune.arch.rules import Rule
from ggprune.arch.table import ArchitectureRow, architecture_table
from ggprune.model import Model


def layer_traits(model: Model) -> tuple[tuple[str, ...], ...]:
    """For every layer: encoder or decoder, MTP, recurrent, window of N, NoPE, keys of layer N,
    index of layer N.

    Empty for plain attention over everything, and for layers of an unknown architecture.
    """
    hparams = Hparams(model)
    row = architecture_table().architectures.get(model.arch)
    rules = row.rules if isinstance(row, ArchitectureRow) else ()
    traits = [_stack_words(hparams, n) for n in range(model.n_layer)]
    windows = _windows(rules, hparams)
    for rule in rules:
        for n, word in rule.traits(hparams, windows).items():
            if n < hparams.n_trunk:
                traits[n].append(word)
    return tuple(tuple(words) for words in traits)


def _stack_words(hparams: Hparams, layer: int) -> list[str]:
    """What a layer is by its place alone."""
    words, stacks = [], hparams.model.stacks
    if len(stacks) > 1:
        words.append("encoder" if layer < stacks[0][1] else "decoder")
    if layer >= hparams.n_trunk:
        words.append("MTP")
    return words


def _windows(rules: Sequence[Rule], hparams: Hparams) -> Flags | None:
    """Which layers have a sliding window, by the one rule that says so."""
    stated = (rule.windows(hparams) for rule in rules)
    return next((flags for flags in stated if flags is not None), None)
