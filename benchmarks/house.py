"""Figures of a tree of ggprune, read from its source alone: sizes, parameters, typing, imports.

    python benchmarks/house.py DIR... [--check]

How it counts: a function has the lines from its `def` (decorators above it left out) to its last
line, nested functions counted on their own as well; parameters are all kinds of them, `self`
included; `Any` counts wherever the name stands outside of an import. Imports inside functions are
all that do not run with the top of their module: import statements in functions and below
`if __name__`, one for each statement, and calls of import_module. Those below `if TYPE_CHECKING`
never run and do not count.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

Function = ast.FunctionDef | ast.AsyncFunctionDef
PACKAGE = "ggprune"


@dataclass(frozen=True)
class Largest:
    """A number and what it belongs to."""

    value: int
    name: str


@dataclass(frozen=True)
class House:
    """All figures of one tree."""

    n_file: int
    n_line: int
    longest_file: Largest
    longest_function: Largest
    most_parameters: Largest
    n_any: int
    n_local_import: int
    classes: Counter[str]  # by package
    public_functions: Counter[str]


LIMITS = {
    "longest function": 62, "most parameters": 10, "uses of Any": 60,
    "imports inside functions": 15, "longest file": 300,
}  # fmt: skip


def read_house(tree: Path) -> House:
    root = tree / PACKAGE
    sources = {path: path.read_text("utf-8") for path in sorted(root.rglob("*.py"))}
    modules = {path: ast.parse(source) for path, source in sources.items()}
    n_line = {path: len(source.splitlines()) for path, source in sources.items()}
    functions = [
        (f"{path.relative_to(root)}:{node.name}", node)
        for path, module in modules.items() for node in functions_of(module)
    ]  # fmt: skip
    return House(
        len(sources),
        sum(n_line.values()),
        largest((n, str(path.relative_to(root))) for path, n in n_line.items()),
        largest((length(node), name) for name, node in functions),
        largest((n_parameter(node), name) for name, node in functions),
        sum(map(n_any, modules.values())),
        sum(map(n_local_import, modules.values())),
        by_package(root, modules, ast.ClassDef),
        by_package(root, modules, ast.FunctionDef),
    )


def largest(found: Iterator[tuple[int, str]]) -> Largest:
    value, name = max(found, key=lambda pair: pair[0])
    return Largest(value, name)


def functions_of(module: ast.Module) -> list[Function]:
    return [n for n in ast.walk(module) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]


def length(node: Function) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def n_parameter(node: Function) -> int:
    args = node.args
    named = [*args.posonlyargs, *args.args, *args.kwonlyargs]
    return len(named) + sum(rest is not None for rest in (args.vararg, args.kwarg))


def n_any(module: ast.Module) -> int:
    """`Any` as a name, and `typing.Any`."""
    return sum(
        (isinstance(node, ast.Name) and node.id == "Any")
        or (isinstance(node, ast.Attribute) and node.attr == "Any")
        for node in ast.walk(module)
    )


def n_local_import(module: ast.Module) -> int:
    """Imports that run later than the module, or not at all; what is for type checkers left out."""
    statements = imports_in(module) - set(module.body)
    for part in module.body:
        if isinstance(part, ast.With | ast.Try):  # for modules that some systems lack
            statements -= imports_in(part)
    for node in ast.walk(module):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            statements -= imports_in(node)
    calls = [n for n in ast.walk(module) if isinstance(n, ast.Call)]
    return len(statements) + sum(ast.unparse(n.func).endswith("import_module") for n in calls)


def imports_in(node: ast.AST) -> set[ast.stmt]:
    return {n for n in ast.walk(node) if isinstance(n, ast.Import | ast.ImportFrom)}


def by_package(
    root: Path, modules: dict[Path, ast.Module], kind: type[ast.ClassDef | ast.FunctionDef]
) -> Counter[str]:
    """Classes, or functions, at the top of modules; those with an underscore are private."""
    counts: Counter[str] = Counter()
    for path, module in modules.items():
        folder = path.relative_to(root).parts[0] if path.parent != root else "."
        for node in module.body:
            public = kind is ast.ClassDef or not getattr(node, "name", "_").startswith("_")
            counts[folder] += isinstance(node, kind) and public
    return counts


def figures(house: House) -> dict[str, str]:
    """Everything but the packages, as it is printed."""
    return {
        "files": str(house.n_file),
        "lines": str(house.n_line),
        "longest file": f"{house.longest_file.value}  {house.longest_file.name}",
        "longest function": f"{house.longest_function.value}  {house.longest_function.name}",
        "most parameters": f"{house.most_parameters.value}  {house.most_parameters.name}",
        "uses of Any": str(house.n_any),
        "imports inside functions": str(house.n_local_import),
    }


def package_figures(house: House) -> dict[str, str]:
    names = sorted(house.classes.keys() | house.public_functions.keys())
    return {f"{n}: classes, functions": f"{house.classes[n]}, {house.public_functions[n]}"
            for n in names}  # fmt: skip


def render(titles: Sequence[str], columns: Sequence[dict[str, str]]) -> str:
    """One line for each figure, one column for each tree."""
    names = list(dict.fromkeys(name for column in columns for name in column))
    rows = [["", *titles], *([n, *(c.get(n, "-") for c in columns)] for n in names)]
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    lines = ("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def exceeded(house: House) -> list[str]:
    shown = figures(house)
    return [
        f"{name}: {shown[name]}, more than {limit}"
        for name, limit in LIMITS.items() if int(shown[name].split()[0]) > limit
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("trees", type=Path, nargs="+", metavar="DIR", help="holds ggprune/")
    parser.add_argument("--check", action="store_true", help="fail where a limit is exceeded")
    asked = parser.parse_args()
    houses = [read_house(tree) for tree in asked.trees]
    columns = [figures(house) | package_figures(house) for house in houses]
    print(render([str(tree) for tree in asked.trees], columns))
    if asked.check:
        wrong = [
            f"{tree}: {line}"
            for tree, house in zip(asked.trees, houses, strict=True) for line in exceeded(house)
        ]  # fmt: skip
        print("\n".join(["", *wrong] if wrong else ["", "no limit is exceeded"]))
        sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
