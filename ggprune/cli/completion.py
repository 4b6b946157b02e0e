"""What a shell completes: the names that an option takes. What is no name is a file, and files the
shell itself completes.

typer asks for them, for a script of its own that `ggprune --install-completion` gives to the shell.
Nothing here knows a command.
"""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Callable, Collection, MutableMapping, Sequence
from enum import Enum
from typing import Any, TypeAlias

Completion: TypeAlias = Callable[[str], list[str]]

WORDS, CURSOR = "COMP_WORDS", "COMP_CWORD"  # of bash: a word a line, and which of them is typed
MAX_HELP = 60  # characters beside a name
# Where a description's first clause ends; typer would have rich take brackets for a style.
CLAUSE_END = re.compile(r"(?<=\w)\.( |$)|; |: pip|\[")


def one_of(names: Collection[str], *, listed: bool = False, any_case: bool = False) -> Completion:
    """Names; with `listed` several of them, joined by commas."""

    def complete(incomplete: str) -> list[str]:
        done, comma, typed = incomplete.rpartition(",") if listed else ("", "", incomplete)
        is_lower = any_case and typed[:1].islower()
        known = (name.lower() if is_lower else name for name in names)
        return [f"{done}{comma}{name}" for name in known if name.startswith(typed)]

    return complete


def values_of(kind: type[Enum]) -> Completion:
    return one_of([str(each.value) for each in kind])


def rule_of(names: Completion) -> Completion:
    """The name behind the last `=`; bash, for which that begins a word, says only what follows."""

    def complete(incomplete: str) -> list[str]:
        pattern, equals, typed = incomplete.rpartition("=")
        is_there = equals or WORDS in os.environ
        return [f"{pattern}{equals}{name}" for name in names(typed)] if is_there else []

    return complete


def mend_bash_words(environment: MutableMapping[str, str]) -> None:
    """Join what bash has divided at `=`, as every other shell does; without bash does nothing.

    Of what is typed now bash replaces what is behind the `=`, and no more is left of it.
    """
    if WORDS not in environment or not environment.get(CURSOR, "").isdecimal():
        return
    joined: list[str] = []
    for word in environment[WORDS].split("\n")[: int(environment[CURSOR]) + 1]:
        if joined and (word == "=" or joined[-1].endswith("=")):
            joined[-1] += word
        else:
            joined.append(word)
    if not joined[-1].startswith("-"):
        joined[-1] = joined[-1].rpartition("=")[2]
    environment.update({WORDS: "\n".join(joined), CURSOR: str(len(joined) - 1)})


def briefly(items: Sequence[Any]) -> list[Any]:
    """The same completions, with no more said about each than fits beside it."""
    for item in items:
        first = CLAUSE_END.split(item.help or "", maxsplit=1)[0]
        item.help = textwrap.shorten(first.lstrip(". "), MAX_HELP, placeholder=" ...") or None
    return list(items)
