"""Options as dataclasses, and commands that are imported when they are asked for."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from ggprune.cli.app import COMMANDS, load
from ggprune.cli.flatten import flattened

Count = Annotated[int, typer.Option("-n", "--count", help="How many.")]


@dataclass(frozen=True, kw_only=True)
class Inner:
    name: Annotated[str, typer.Option(help="Whose.")] = "nobody"
    colour: Annotated[str, typer.Option()] = "red"


@dataclass(frozen=True, kw_only=True)
class Outer:
    first: Annotated[bool, typer.Option("--first")] = False
    inner: Inner
    last: Annotated[list[str] | None, typer.Option()] = None


@dataclass(frozen=True, kw_only=True)
class Other(Inner):
    name: Annotated[str, typer.Option(help="Somebody else's.")] = "somebody"
    colour: str = "blue"  # no option any more
    size: Annotated[int, typer.Option()]


def run(command: Callable[..., None], *args: str) -> str:
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command()(flattened(command))
    result = CliRunner().invoke(app, args, env={"COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb"})
    return result.output


def names(command: Callable[..., None]) -> list[str]:
    return list(inspect.signature(flattened(command)).parameters)


def test_options_stand_in_the_order_of_parameters_and_fields() -> None:
    def command(source: Annotated[Path, typer.Argument()], outer: Outer, count: Count = 3) -> None:
        print(source, outer, count)

    assert names(command) == ["source", "first", "name", "colour", "last", "count"]
    printed = run(command, "a.gguf", "--name", "me", "--last", "x", "--last", "y", "-n", "5")
    inner = "Inner(name='me', colour='red')"
    assert printed == f"a.gguf Outer(first=False, inner={inner}, last=['x', 'y']) 5\n"
    text = run(command, "--help")
    places = [text.index(f"--{name}") for name in ("first", "name", "colour", "last", "count")]
    assert places == sorted(places)


def test_a_subclass_says_it_otherwise_takes_away_and_adds() -> None:
    def command(other: Other) -> None:
        print(other)

    assert names(command) == ["name", "size"]
    assert run(command, "--size", "7") == "Other(name='somebody', colour='blue', size=7)\n"
    assert "Somebody else's." in run(command, "--help")
    assert "No such option" in run(command, "--size", "7", "--colour", "red")
    assert "Missing option" in run(command)


def test_an_option_that_is_there_twice_is_a_mistake() -> None:
    def command(inner: Inner, other: Other) -> None:
        print(inner, other)

    with pytest.raises(ValueError, match="duplicate parameter name"):
        flattened(command)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_announced_as_it_begins(name: str) -> None:
    command = import_module(f"ggprune.cli.{name}").command
    assert (load(name).help or "").split("\n\n")[0] == COMMANDS[name]
    assert len(inspect.signature(command).parameters) <= 8


@pytest.mark.parametrize(
    ("args", "loaded"), [(["--help"], []), (["inspect", "--help"], ["ggprune.cli.inspect"])]
)
def test_only_the_command_that_is_asked_for_is_imported(args: list[str], loaded: list[str]) -> None:
    script = (
        "import sys\n"
        "from ggprune.cli.app import COMMANDS, app\n"
        "try:\n"
        "    app(sys.argv[1:])\n"
        "finally:\n"
        "    modules = [f'ggprune.cli.{name}' for name in COMMANDS]\n"
        "    print([name for name in modules if name in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *args], capture_output=True, text=True, check=True
    )
    assert done.stderr == f"{loaded}\n"
