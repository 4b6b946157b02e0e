"""How long ggprune takes to start, in two trees taking turns; and that llama.cpp stays out of it.

`ggprune --help` and `ggprune inspect` are timed as processes, `import ggprune` inside of one. Trees
alternate in every round and who is first changes, so that a machine whose speed drifts disturbs
both alike. Before that each is run once with a look at what it has loaded.

    python benchmarks/start.py BEFORE [AFTER] [--rounds N]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

TINY = Path(__file__).resolve().parent.parent / "fixtures" / "tiny.gguf"
COMMANDS = {"ggprune --help": ["--help"], "ggprune inspect": ["inspect", str(TINY)]}
IMPORT = (
    "import time\nstart = time.perf_counter()\nimport ggprune\nprint(time.perf_counter() - start)\n"
)
LOOK = (
    "import runpy, sys\n"
    "try:\n"
    "    {run}\n"
    "finally:\n"
    "    import ggprune\n"
    "    assert ggprune.__file__.startswith({tree!r}), ggprune.__file__\n"
    "    wrong = [name for name in sys.modules if name.startswith('llama_cpp')]\n"
    "    with open('/proc/self/maps') as maps:\n"
    "        loaded = maps.read()\n"
    "    wrong += [part for part in ('libllama', 'libggml') if part in loaded]\n"
    "    assert not wrong, wrong\n"
)


def run(tree: Path, arguments: Sequence[str]) -> str:
    """What Python prints in that tree, which comes first on its path. Raises what `check` does."""
    done = subprocess.run(
        [sys.executable, *arguments], env={**os.environ, "PYTHONPATH": str(tree)}, cwd=tree,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return done.stdout


def look(tree: Path) -> None:
    """Fail if a start loads llama.cpp, or if another tree is what runs."""
    for arguments in COMMANDS.values():
        module = "runpy.run_module('ggprune', run_name='__main__', alter_sys=True)"
        run(tree, ["-c", LOOK.format(run=module, tree=f"{tree}/"), *arguments])
    run(tree, ["-c", LOOK.format(run="import ggprune", tree=f"{tree}/")])


def process_s(arguments: Sequence[str], tree: Path) -> float:
    start = time.perf_counter()
    run(tree, ["-m", "ggprune", *arguments])
    return time.perf_counter() - start


def import_s(tree: Path) -> float:
    return float(run(tree, ["-c", IMPORT]))


def alternate(
    trees: Sequence[Path], measure: Callable[[Path], float], n_round: int
) -> list[list[float]]:
    """Seconds by tree, one for every round."""
    found: list[list[float]] = [[] for _ in trees]
    for tree in trees:
        measure(tree)  # compiles what has to be compiled
    for number in range(n_round):
        order = range(len(trees)) if number % 2 == 0 else range(len(trees) - 1, -1, -1)
        for i in order:
            found[i].append(measure(trees[i]))
    return found


def render(name: str, samples: Sequence[Sequence[float]]) -> str:
    """Medians in milliseconds with the fastest beside them, and how much longer the last one takes.

    The ratio is the median over the rounds.
    """
    cells = [f"{1000 * statistics.median(s):8.1f} (min {1000 * min(s):.1f})" for s in samples]
    ratio = statistics.median(b / a for a, b in zip(samples[0], samples[-1], strict=True))
    return f"{name:18}" + "".join(f"{cell:>26}" for cell in cells) + f"{ratio:10.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("trees", type=Path, nargs="+", metavar="DIR", help="holds ggprune/")
    parser.add_argument("--rounds", type=int, default=20)
    asked = parser.parse_args()
    trees = [tree.resolve() for tree in asked.trees]
    for tree in trees:
        look(tree)
    print(f"{'median ms':18}" + "".join(f"{tree.name:>26}" for tree in trees) + f"{'ratio':>10}")
    for name, arguments in COMMANDS.items():
        samples = alternate(trees, partial(process_s, arguments), asked.rounds)
        print(render(name, samples), flush=True)
    print(render("import ggprune", alternate(trees, import_s, asked.rounds)))
    print("none of them loads llama.cpp")


if __name__ == "__main__":
    main()
