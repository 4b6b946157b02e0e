"""The architecture of the code, kept true by reading it."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TypeGuard

import pytest

PACKAGE = Path(__file__).parent.parent / "ggprune"
# In the order in which the data walks: each may import from those before it.
ORDER = (
    "version", "lean", "errors", "progress", "files", "model", "metrics", "arch", "surgery",
    "runtime", "ablation", "quantize", "scoring", "healing", "training",
    "evaluation", "bench", "cluster", "pipeline", "report", "cli",
)  # fmt: skip
# Neighbours that do not know each other, though the order would allow it.
STRANGERS = {
    "metrics": {"model"}, "runtime": {"surgery", "arch"}, "quantize": {"ablation"},
    "healing": {"scoring", "surgery"},
    "training": {"scoring", "surgery", "ablation", "quantize"},
    "evaluation": {"scoring", "ablation", "surgery", "quantize", "healing"},
    "cluster": {"surgery", "quantize", "healing", "training", "bench"},
    "bench": {"scoring", "healing", "evaluation", "ablation", "surgery", "quantize"},
}  # fmt: skip
SOURCES = sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> list[tuple[str, bool]]:
    """Imported modules, and whether at the top level of the file."""
    tree = ast.parse(path.read_text())
    found = []
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        found += [(name, node in tree.body) for name in names]
    return found


def place(module: str) -> int:
    return ORDER.index(module)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_follow_the_data(path: Path) -> None:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    for name, at_top in imports(path):
        assert name.split(".")[0] != "click"
        if name.split(".")[0] == "llama_cpp":
            assert parts[0] == "runtime"
            assert not at_top
        if name.startswith("ggprune.") and parts[0] not in ("__init__", "__main__"):
            package = name.split(".")[1]
            assert place(package) <= place(parts[0]), f"{path} imports {name}"
            assert package not in STRANGERS.get(parts[0], ()), f"{path} imports {name}"


def test_only_the_command_line_prints() -> None:
    for path in SOURCES:
        calls = [
            node.func.id
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        ]
        if path.relative_to(PACKAGE).parts[0] != "cli":
            assert "print" not in calls, path
        assert not {"eval", "exec"} & set(calls)


def test_texts_have_an_encoding_of_their_own() -> None:
    """What a system takes where none is said differs; so do line ends, in what JSON allows."""
    for path in SOURCES:
        for call in (n for n in ast.walk(ast.parse(path.read_text("utf-8"))) if _opens_text(n)):
            keywords = {keyword.arg for keyword in call.keywords}
            assert "encoding" in keywords, f"{path}:{call.lineno}: {ast.unparse(call)}"


def _opens_text(node: ast.AST) -> TypeGuard[ast.Call]:
    """Without an encoding among the first arguments, if it has a place there."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return False
    constants = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
    if node.func.attr in ("read_text", "write_text"):
        return not {"utf-8", "ascii"} & set(constants)
    mode = constants[0] if constants else None if node.args else "r"
    return node.func.attr == "open" and isinstance(mode, str) and set(mode) <= set("rwat+")


def test_children_are_started_in_one_layer() -> None:
    for path in SOURCES:
        package = path.relative_to(PACKAGE).parts[0]
        if package not in ("runtime", "pipeline"):
            assert all(name != "ggprune.runtime.isolate" for name, _ in imports(path)), path


def test_every_module_says_what_it_is() -> None:
    for path in SOURCES:
        tree = ast.parse(path.read_text())
        assert not tree.body or ast.get_docstring(tree), f"{path} has no docstring"
