"""Patterns of tensor types: which tensors they match, and patterns that match given ones.

What a pattern matches is for llama.cpp's own regular expressions to say: they are run on a model's
names in dry runs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ggprune.errors import LlamaError
from ggprune.model.model import Model
from ggprune.model.names import block_of
from ggprune.quantize.options import QuantizeOptions, TensorTypeRule
from ggprune.quantize.quantizer import dry_run, listen_to_lines

# A pattern's match is logged where its type is not the mixture's default: with two mixtures that
# have different defaults, every match is logged at least once.
PROBES = ("Q8_0", "Q4_0")

_MATCH_LINE = re.compile(r"\w+: (?P<name>.+?)\s+- applying manual override: \S+ -> (?P<new>\S+)\n")
_SPECIAL = re.compile(r"([\\^$.|?*+()\[\]{}/])")


def match_rules(model: Model, rules: Sequence[TensorTypeRule]) -> dict[str, str]:
    """Type by name of every tensor that the rules speak of; the first match counts.

    Raises LlamaError for a pattern that is no regular expression.
    """
    lines: list[re.Match[str]] = []
    for probe in PROBES:
        try:
            with listen_to_lines(_MATCH_LINE, lines.append):
                dry_run(model, QuantizeOptions(probe, tensor_types=tuple(rules)), None)
        except LlamaError as e:
            told = str(e).replace(f"cannot be quantized to {probe}", "--tensor-type fails")
            raise LlamaError(told) from e
    return {line["name"]: line["new"].upper() for line in lines}


def exact_rules(types: Mapping[str, str]) -> tuple[TensorTypeRule, ...]:
    """Rules that match these names and no others: one for all blocks of a kind."""
    kinds: dict[tuple[str, str, str], list[int]] = {}
    others: list[TensorTypeRule] = []
    for name, made in types.items():
        block = block_of(name)
        if block is None:
            others.append(TensorTypeRule(f"^{_escape(name)}$", made))
        else:
            stack, number = block
            rest = name.removeprefix(f"{stack}blk.{number}.")
            kinds.setdefault((stack, rest, made), []).append(number)
    grouped = [
        TensorTypeRule(rf"^{_escape(stack)}blk\.({'|'.join(map(str, n))})\.{_escape(rest)}$", made)
        for (stack, rest, made), n in kinds.items()
    ]
    return (*others, *grouped)


def _escape(text: str) -> str:
    """For ECMAScript expressions, which std::regex reads."""
    return _SPECIAL.sub(r"\\\1", text)
