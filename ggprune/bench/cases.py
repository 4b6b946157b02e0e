"""What is measured: llama-bench's tests, in its order, from its lists and ranges.

Nothing is measured here. Follows parse_int_range and get_cmd_params_instances in
tools/llama-bench/llama-bench.cpp.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, TypeVar

from ggprune.errors import UsageError
from ggprune.files.keys import INLINE, written
from ggprune.runtime.compute import Compute

MAX_VALUES = 10_000  # of one option: a range that is written wrong must not run for a year
# Words that llama-bench takes, and what they stand for.
CACHE_TYPES = {t: t for t in ("f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "iq4_nl")}
FLASH = {"on": True, "off": False, "auto": None, "1": True, "0": False, "-1": None}

T = TypeVar("T")

_RANGE = re.compile(r"(?P<first>-?\d+)(?:-(?P<last>\d+)(?:(?P<op>[+*])(?P<step>\d+))?)?")
_PAIR = re.compile(r"(\d{1,8}),(\d{1,8})")


@dataclass(frozen=True)
class Case:
    """One test: `n_prompt` tokens read, then `n_gen` generated, behind `n_depth` others."""

    n_prompt: int
    n_gen: int
    n_depth: int = 0
    compute: Annotated[Compute, INLINE] = field(default_factory=Compute)

    @property
    @written("test", before="n_prompt")
    def name(self) -> str:
        """As llama-bench prints it: `pp512`, `tg128 @ d4096`, `pp512+tg128`."""
        parts = [f"{p}{n}" for p, n in (("pp", self.n_prompt), ("tg", self.n_gen)) if n]
        return "+".join(parts) + (f" @ d{self.n_depth}" if self.n_depth else "")

    @property
    def n_token(self) -> int:
        """Tokens that count."""
        return self.n_prompt + self.n_gen

    @property
    def n_ctx(self) -> int:
        return self.n_token + self.n_depth


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Values of every parameter; every combination of them is measured."""

    n_prompt: tuple[int, ...] = (512,)  # 0: no such test
    n_gen: tuple[int, ...] = (128,)
    prompt_gen: tuple[tuple[int, int], ...] = ()
    n_depth: tuple[int, ...] = (0,)
    n_batch: tuple[int, ...] = (2048,)
    n_ubatch: tuple[int, ...] = (512,)
    type_k: tuple[str, ...] = ("f16",)
    type_v: tuple[str, ...] = ("f16",)
    n_threads: tuple[int | None, ...] = (None,)
    n_gpu_layers: tuple[int, ...] = (-1,)
    flash_attn: tuple[bool | None, ...] = (None,)

    def computes(self) -> tuple[Compute, ...]:
        """All ways to compute, in llama-bench's order; the depth varies faster than any."""
        return tuple(
            Compute(
                n_gpu_layers=layers, n_batch=batch, n_ubatch=ubatch, type_k=type_k, type_v=type_v,
                flash_attn=flash, n_threads=threads,
            )
            for layers, batch, ubatch, type_k, type_v, flash, threads in itertools.product(
                self.n_gpu_layers, self.n_batch, self.n_ubatch, self.type_k, self.type_v,
                self.flash_attn, self.n_threads,
            )
        )  # fmt: skip

    def cases(self) -> tuple[Case, ...]:
        """Raises UsageError if nothing is left to measure, or it cannot be."""
        pairs = [(n, 0) for n in self.n_prompt] + [(0, n) for n in self.n_gen]
        tests = [pair for pair in (*pairs, *self.prompt_gen) if any(pair)]
        if not tests:
            raise UsageError("-p 0 -n 0 leaves nothing to measure")
        cases = [
            Case(*pair, depth, compute)
            for compute, depth, pair in itertools.product(self.computes(), self.n_depth, tests)
        ]
        if len(cases) > MAX_VALUES:
            raise UsageError(f"{len(cases)} tests for every model, {MAX_VALUES} can be measured")
        return tuple(cases)


def parse_ranges(
    values: Sequence[str], option: str, minimum: int = 0, maximum: int = 1 << 24
) -> tuple[int, ...]:
    """`512,1024`, `1-4`, `0-4096+512`, `64-512*2`: all numbers meant, in order.

    Raises UsageError for anything else, and for numbers that are too small or too large.
    """
    all_numbers: list[int] = []
    for part in ",".join(values).split(","):
        match = _RANGE.fullmatch(part.strip())
        if match is None:
            raise UsageError(
                f"{option} {part}: a number, first-last, first-last+step or first-last*factor"
            )
        numbers = _numbers(match, option)
        if not numbers:
            raise UsageError(f"{option} {part}: the range is empty")
        all_numbers += numbers
        if len(all_numbers) > MAX_VALUES:
            raise UsageError(f"{option} {part}: more than {MAX_VALUES} values")
    wrong = next((n for n in all_numbers if not minimum <= n <= maximum), None)
    if wrong is not None:
        raise UsageError(f"{option} {wrong}: must be from {minimum} to {maximum}")
    return tuple(all_numbers)


def _numbers(match: re.Match[str], option: str) -> list[int]:
    first = int(match["first"][:20])
    last = first if match["last"] is None else int(match["last"][:20])
    factor = match["op"] == "*"
    step = 1 if match["step"] is None else int(match["step"][:20])
    if last > first and (step < 1 or (factor and (step < 2 or first < 1))):
        raise UsageError(f"{option} {match[0]}: this step never arrives")
    if not factor:
        return list(range(first, last + 1, max(step, 1))[: MAX_VALUES + 1])
    numbers = [first] if first <= last else []
    while numbers and numbers[-1] * step <= last and last > first:
        numbers.append(numbers[-1] * step)
    return numbers


def parse_pairs(values: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """`-pg 512,128` each. Raises UsageError."""
    pairs = []
    for value in values:
        match = _PAIR.fullmatch(value.strip())
        if match is None:
            raise UsageError(f"-pg {value}: two numbers, PROMPT,GENERATED")
        pairs.append((int(match[1]), int(match[2])))
    return tuple(pairs)


def parse_words(values: Sequence[str], option: str, known: dict[str, T]) -> tuple[T, ...]:
    """`on,off,auto`: what each stands for. Raises UsageError for words that are not known."""
    names = [name.strip().lower() for name in ",".join(values).split(",")]
    for name in names:
        if name not in known:
            raise UsageError(f"{option} {name}: one of {', '.join(known)}")
    return tuple(known[name] for name in names)
