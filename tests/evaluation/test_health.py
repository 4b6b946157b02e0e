from __future__ import annotations

from pathlib import Path

import pytest

from ggprune.errors import DataError
from ggprune.evaluation.health import (
    Prompt,
    Sample,
    begins_with,
    check_health,
    count_texts,
    language_of,
    read_prompts,
    repetition,
    script_shift,
    scripts,
    stray_brackets,
)
from ggprune.model.model import Model
from tests.conftest import TINY
from tests.helpers import ONE_GRAPH, pruned_copy


def test_repetition_by_hand() -> None:
    assert repetition(range(20)) == 0
    assert repetition([1, 2] * 10) == pytest.approx(1 - 2 / 17)
    assert repetition([5] * 11) == pytest.approx(1 - 1 / 8)
    assert repetition([1, 2, 3]) == 0


def test_brackets_by_hand() -> None:
    assert stray_brackets("f(a, [b", "])") == 0
    assert stray_brackets("f(a", "])") == 1
    assert stray_brackets("", "} ( )") == 1
    assert stray_brackets("a ) b", "(") == 0


def test_scripts_by_hand() -> None:
    assert scripts("Hello, 12!") == {"LATIN": 1.0}
    assert scripts("ab дг") == {"CYRILLIC": 0.5, "LATIN": 0.5}
    assert list(scripts("春天来了")) == ["CJK"]
    assert scripts("12 + 5") == {}
    assert script_shift({"CJK": 0.75, "LATIN": 0.25}, {"LATIN": 1.0}) == 0.75
    assert script_shift({"LATIN": 1.0}, {}) == 0


def test_answers_by_hand() -> None:
    assert begins_with(" 22\n17 + 6", "22")
    assert not begins_with(" 221", "22")
    assert not begins_with(" 2", "22")


def test_languages_where_there_is_a_saying() -> None:
    assert language_of("He walked down the stairs and looked at the sea, which was dark.") == "en"
    assert language_of("wir zu spät und mussten bis zum nächsten Morgen warten.") == "de"
    assert language_of("春天来了,花园里的花都开了。孩子们在草地上玩。") == "zh"
    assert language_of("17 + 5 = 22") is None
    assert language_of("") is None


def test_models_are_counted_against_the_base() -> None:
    def sample(n_token: int, ended: bool, script: str, language: str | None) -> Sample:
        return Sample(
            prompt="p", text="t", n_token=n_token, has_ended=ended, repetition=0.5,
            stray_brackets=1, scripts={script: 1.0}, language=language, is_right=ended,
        )  # fmt: skip

    base = tuple(sample(20, ended, "LATIN", "en") for ended in (True, True, False))
    now = (
        sample(5, True, "LATIN", "de"), sample(64, False, "CJK", "zh"),
        sample(64, False, "LATIN", None),
    )  # fmt: skip
    texts = count_texts(now, base)
    assert (texts.n_early, texts.n_missing_end) == (1, 1)
    assert (texts.n_other_script, texts.n_other_language) == (1, 2)
    assert (texts.repetition, texts.stray_brackets) == (0.5, 3)
    assert (texts.n_right, texts.n_expected) == (1, 3)
    assert count_texts(now).n_early is None


def test_a_model_beside_itself_and_beside_a_broken_one(tiny: Model, tmp_path: Path) -> None:
    broken = pruned_copy(tiny, (0, 7), tmp_path / "broken.gguf").path
    prompts = (Prompt("3 x 4 =", "12"), Prompt("7 x 8 =", "56"), Prompt("Close the brackets: ( ["))
    same, other = check_health([TINY, broken], prompts, base=TINY, n_predict=16, compute=ONE_GRAPH)
    assert same.base is not None
    assert same.base == other.base
    assert same.texts.samples == same.base.samples
    assert (same.texts.n_right, same.texts.n_expected) == (2, 2)
    assert other.texts.n_right < 2
    assert (same.texts.n_early, same.texts.n_missing_end, same.texts.n_other_script) == (0, 0, 0)
    assert same.texts.samples[0].text.startswith(" 12")


def test_prompts_come_from_the_package_or_a_file(tmp_path: Path) -> None:
    shipped = read_prompts(None)
    assert sum(p.expected is not None for p in shipped) == 6
    assert any("\n" in p.text for p in shipped)
    path = tmp_path / "prompts.txt"
    path.write_text("# mine\n1 + 1 =\\t2\n\nTwo\\nlines\n", encoding="utf-8")
    assert read_prompts(path) == (Prompt("1 + 1 =", "2"), Prompt("Two\nlines"))
    path.write_text("# nothing\n")
    with pytest.raises(DataError, match="no prompts"):
        read_prompts(path)
