from __future__ import annotations

import pytest

from ggprune.bench.cases import (
    CACHE_TYPES,
    FLASH,
    Case,
    Grid,
    parse_pairs,
    parse_ranges,
    parse_words,
)
from ggprune.errors import UsageError
from ggprune.runtime.compute import Compute


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("512", (512,)),
        ("512,1024", (512, 1024)),
        ("1-4", (1, 2, 3, 4)),
        ("0-1024+512", (0, 512, 1024)),
        ("0-1000+512", (0, 512)),
        ("64-512*2", (64, 128, 256, 512)),
        ("3-100*5", (3, 15, 75)),
        ("8,16-17,32-128*2", (8, 16, 17, 32, 64, 128)),
        ("7-7", (7,)),
    ],
)
def test_ranges_are_those_of_llama_bench(text: str, numbers: tuple[int, ...]) -> None:
    assert parse_ranges([text], "-p") == numbers


def test_an_option_may_be_repeated_and_negative() -> None:
    assert parse_ranges(["1", "2,3"], "-p") == (1, 2, 3)
    assert parse_ranges(["-1,0"], "-ngl", -1) == (-1, 0)


@pytest.mark.parametrize(
    "text", ["", "x", "1,", "1-", "4-2", "1-4+0", "0-4*2", "1-4*1", "1-2-3", "1 2", "1-9999999"]
)
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="-p"):
        parse_ranges([text], "-p")


def test_numbers_have_limits() -> None:
    with pytest.raises(UsageError, match="--threads 0: must be from 1 to 512"):
        parse_ranges(["0"], "--threads", 1, 512)
    with pytest.raises(UsageError, match="--threads"):
        parse_ranges(["9" * 5000], "--threads", 1, 512)
    with pytest.raises(UsageError, match="-p -3"):
        parse_ranges(["-3"], "-p")


def test_words_and_pairs() -> None:
    assert parse_words(["on,off", "auto", "1"], "-fa", FLASH) == (True, False, None, True)
    assert parse_words(["f16,q8_0"], "-ctk", CACHE_TYPES) == ("f16", "q8_0")
    assert parse_pairs(["512,128", "8,0"]) == ((512, 128), (8, 0))
    for text in ("512", "1,2,3"):
        with pytest.raises(UsageError):
            parse_pairs([text])
    with pytest.raises(UsageError):
        parse_words(["maybe"], "-fa", FLASH)
    with pytest.raises(UsageError, match="q6_k: one of f16"):
        parse_words(["q6_k"], "-ctk", CACHE_TYPES)


def test_names_are_those_of_llama_bench() -> None:
    assert Case(512, 0).name == "pp512"
    assert Case(0, 128, 4096).name == "tg128 @ d4096"
    case = Case(512, 128, 16)
    assert (case.name, case.n_token, case.n_ctx) == ("pp512+tg128 @ d16", 640, 656)


def test_every_combination_in_llama_benchs_order() -> None:
    grid = Grid(
        n_prompt=(8,), n_gen=(2, 0), prompt_gen=((4, 2),), n_depth=(0, 16), n_threads=(1, 2)
    )  # fmt: skip
    names = [(case.compute.n_threads, case.name) for case in grid.cases()]
    tests = ["pp8", "tg2", "pp4+tg2", "pp8 @ d16", "tg2 @ d16", "pp4+tg2 @ d16"]
    assert names == [(1, name) for name in tests] + [(2, name) for name in tests]
    (case,) = Grid(n_prompt=(0,), n_gen=(3,), type_k=("q8_0",), flash_attn=(True,)).cases()
    assert case == Case(0, 3, 0, Compute(flash_attn=True, type_k="q8_0"))


def test_too_little_and_too_much() -> None:
    with pytest.raises(UsageError, match="nothing to measure"):
        Grid(n_prompt=(0,), n_gen=(0,), prompt_gen=((0, 0),)).cases()
    with pytest.raises(UsageError, match="10000 can be measured"):
        Grid(n_prompt=tuple(range(1, 200)), n_gen=(0,), n_depth=tuple(range(200))).cases()
