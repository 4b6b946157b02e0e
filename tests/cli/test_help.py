"""The help of every command in narrow and wide terminals: everything whole, nothing too long."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from enum import Enum
from importlib import import_module
from typing import Any, TypeAlias, get_args

import pytest

from ggprune.cli.app import COMMANDS, app, load
from ggprune.cli.flatten import flattened
from ggprune.cli.help import OTHER, PANELS, panel_of

WIDTHS = (60, 80, 120)
LEAST_WIDTH = 24  # of a description
ROW = re.compile(r"  (?=\S)")
Help: TypeAlias = Callable[[str | None, int], str]


@pytest.fixture
def help_of(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Help:
    """What a command, or without a name ggprune, prints in a terminal of that width."""

    def printed(name: str | None, width: int) -> str:
        monkeypatch.setenv("COLUMNS", str(width))
        with pytest.raises(SystemExit) as ended:
            app([*([name] if name else []), "--help"])
        assert ended.value.code == 0
        return capsys.readouterr().out

    return printed


def rows_of(text: str) -> Iterator[list[str]]:
    """The lines of each argument, option and command of a help."""
    rows: list[list[str]] = []
    for line in text.splitlines():
        if ROW.match(line):
            rows.append([line])
        elif line.startswith("   ") and rows:
            rows[-1].append(line)
    yield from rows


def choices_of(name: str) -> Iterator[str]:
    """The values of all options that take one of several."""
    parameters = inspect.signature(flattened(import_module(f"ggprune.cli.{name}").command))
    for parameter in parameters.parameters.values():
        kind = get_args(parameter.annotation)[0]
        for each in (kind, *get_args(kind)):
            if isinstance(each, type) and issubclass(each, Enum):
                yield from (str(item.value) for item in each)


def is_whole(word: str, text: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", text) is not None


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", COMMANDS)
def test_nothing_is_cut(name: str, width: int, help_of: Help) -> None:
    text = help_of(name, width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    words = set(re.split(r"[\s,]+", text))
    for param in load(name).params:
        is_option = param.param_type_name == "option"
        assert not is_option or set(param.opts + param.secondary_opts) <= words
        assert param.is_flag if param.metavar is None else param.metavar in text
        assert len(param.metavar or "") <= LEAST_WIDTH + 3 * (not is_option)
    assert all(is_whole(choice, text) for choice in choices_of(name))


def test_options_that_take_one_of_several_are_looked_at() -> None:
    assert {"strict", "auto"} <= set(choices_of("eval"))
    assert {"csv", "jsonl", "sql"} <= set(choices_of("bench"))


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", [*COMMANDS, None])
def test_descriptions_have_room(name: str | None, width: int, help_of: Help) -> None:
    rows = list(rows_of(help_of(name, width)))
    columns = {len(line) - len(line.lstrip()) for _, *more in rows for line in more}
    assert len(columns) <= 1  # one for all panels
    assert not columns or width - max(columns) - 2 >= LEAST_WIDTH
    n_line = sum(map(len, rows)) / len(rows)
    assert n_line < {60: 3.5, 80: 2.5, 120: 2}[width], f"{n_line} lines for each"


def test_all_commands_are_listed_with_what_they_do(help_of: Help) -> None:
    text = " ".join(help_of(None, 60).split())
    assert all(f" {name} {summary}" in text for name, summary in COMMANDS.items())
    assert "--version" in text
    assert "is short for ggprune prune" in text


@pytest.mark.parametrize("name", ["heal", "auto"])
def test_brackets_are_no_styles(name: str, help_of: Help) -> None:
    assert "pip install 'ggprune[train]'" in " ".join(help_of(name, 80).split())


def test_an_option_is_in_one_panel_wherever_it_is_found(help_of: Help) -> None:
    named = [name for names in PANELS.values() for name in names.split()]
    assert len(named) == len(set(named))
    options: list[Any] = [param for name in COMMANDS for param in load(name).params]
    used = {opt for option in options for opt in option.opts}
    used |= {"--help", "--version", "--install-completion", "--show-completion"}
    assert set(named) <= used
    others = {option.rich_help_panel for option in options} - {None}
    assert others <= set(PANELS)
    for name in COMMANDS:
        _, options_text = help_of(name, 80).split("\nArguments:\n")
        titles = re.findall(r"^(\w.*):$", options_text, re.MULTILINE)
        order = [title for title in PANELS if title in titles]
        assert titles == order
        assert order[-1] == OTHER


def test_an_option_may_name_its_panel_and_has_to_be_in_one() -> None:
    params = {param.opts[-1]: param for param in load("synth").params}
    assert (panel_of(params["--type"]), panel_of(params["--shape"])) == ("Shape", "Shape")
    assert panel_of({p.opts[-1]: p for p in load("auto").params}["--type"]) == "Quantizing"
    params["--shape"].opts = ["--unheard-of"]
    with pytest.raises(AssertionError, match="is in no panel"):
        panel_of(params["--shape"])
