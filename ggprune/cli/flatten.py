"""Options written once: dataclasses of options become the flat signature that typer reads.

Nothing here knows a command or an option.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import is_dataclass
from functools import wraps
from typing import Annotated, TypeGuard, TypeVar, get_args, get_origin, get_type_hints

from ggprune.cli.help import metavar_of

T = TypeVar("T")


def flattened(command: Callable[..., None]) -> Callable[..., None]:
    """The same command for typer: a parameter that is a dataclass has become its fields.

    Their order is that of the parameters, within one that of its fields, and so on inwards. What
    is not `Annotated` is no option: it keeps its default, and so a subclass takes an option away.
    """

    @wraps(command)
    def call(**values: object) -> None:
        _built(command, values)

    parameters = list(_leaves(command))
    call.__annotations__ = {each.name: each.annotation for each in parameters}
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return call


def _parameters(owner: Callable[..., object]) -> Iterator[inspect.Parameter]:
    """Those of a function or of a dataclass, with their types instead of the types' names."""
    if isinstance(owner, type):
        types = get_type_hints(owner, include_extras=True)  # of the classes above it, too
    else:
        types = inspect.get_annotations(owner, eval_str=True)
    for parameter in inspect.signature(owner).parameters.values():
        yield parameter.replace(annotation=types[parameter.name])


def _is_group(annotation: object) -> TypeGuard[Callable[..., object]]:
    return isinstance(annotation, type) and is_dataclass(annotation)


def _leaves(owner: Callable[..., object]) -> Iterator[inspect.Parameter]:
    for parameter in _parameters(owner):
        if _is_group(parameter.annotation):
            yield from _leaves(parameter.annotation)
        elif get_origin(parameter.annotation) is Annotated:
            kind, info = get_args(parameter.annotation)
            info = copy(info)
            info.metavar = info.metavar or metavar_of(kind)
            if info.show_default is True and parameter.default in (None, parameter.empty):
                # not all versions of typer keep a default None to themselves
                info.show_default = False
            named = parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            yield named.replace(annotation=Annotated[kind, info])


def _built(owner: Callable[..., T], values: dict[str, object]) -> T:
    """What the function returns for the values, or the dataclass that they make."""
    arguments: dict[str, object] = {}
    for parameter in _parameters(owner):
        if _is_group(parameter.annotation):
            arguments[parameter.name] = _built(parameter.annotation, values)
        elif parameter.name in values:
            arguments[parameter.name] = values[parameter.name]
    return owner(**arguments)
