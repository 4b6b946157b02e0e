"""Gives hostile models to every command that loads one: make hostile.

    python -m tests.hostile [--model NAME]... [--command NAME]...

Each command must do its work, or say one line that names the file and leave no output. What comes
out must be numbers. Exit code 1 where something else happens.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from ggprune.model.model import open_model
from tests.hostile.models import TINY, VARIANTS, made

LIMIT_S = 300
SHORT = ("--chunks", "2", "-c", "64", "-t", "1")
COMMANDS: Mapping[str, tuple[str, ...]] = {
    "inspect": ("{in}",),
    "eval": ("{in}", *SHORT),
    "rank": ("{in}", *SHORT, "--no-cache", "--decide", "1"),
    "choose": ("{scores}", "--model", "{in}", "--drop", "1", "--no-cache", "-t", "1"),
    "bench": ("{in}", "-p", "8", "-n", "2", "-r", "1", "-t", "1"),
    "quantize": ("{in}", "{out}", "Q4_K_M", "-t", "1"),
    "prune": ("--prune-layers", "1", "{in}", "{out}"),
    "heal": ("--prune-layers", "1", "{in}", "{out}", "--chunks", "24", "-c", "64", "-t", "1"),
    "auto": ("{in}", "{out}", "--drop", "1", *SHORT, "-p", "8", "-n", "2", "-r", "1",
             "--type", "Q4_K_M"),
}  # fmt: skip
NOT_NUMBERS = re.compile(r"(?<![a-z])(nan|inf)(?![a-z])", re.IGNORECASE)


def verdict(command: str, path: Path, scores: Path) -> str:
    """`works`, `one line`, or what is wrong."""
    out = path.with_name("out.gguf")
    out.unlink(missing_ok=True)
    if command == "choose":
        scores = _claimed(scores, path)
    words = {"in": path, "out": out, "scores": scores}
    line = [part.format(**words) for part in COMMANDS[command]]
    environment = {**os.environ, "XDG_CACHE_HOME": str(path.parent), "NO_COLOR": "1"}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "ggprune", command, *line], env=environment, check=False,
            capture_output=True, timeout=LIMIT_S,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"more than {LIMIT_S} s"
    said = done.stderr.decode("utf-8", "replace").strip().splitlines()
    if done.returncode == 0:
        shown = done.stdout.decode("utf-8", "replace").replace(path.stem, "")
        found = NOT_NUMBERS.search(shown)
        return f"prints {found[0]}" if found else "works"
    if done.returncode != 1 or len(said) != 1 or not said[0].startswith("ggprune: error: "):
        return f"exit code {done.returncode}: " + " | ".join(said[-3:])[-400:]
    if out.exists():
        return "leaves its output"
    is_named = path.name in said[0] or out.name in said[0]
    return "one line" if is_named else f"does not name the file: {said[0][:300]}"


def _claimed(scores: Path, path: Path) -> Path:
    """The ranking as one of this model, so that it is not refused for another one's."""
    document = json.loads(scores.read_text("utf-8"))
    document["model"] |= {"fingerprint": open_model(path).fingerprint}
    claimed = scores.with_name("claimed.json")
    claimed.write_text(json.dumps(document), "utf-8")
    return claimed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", action="append", choices=list(VARIANTS))
    parser.add_argument("--command", action="append", choices=list(COMMANDS))
    asked = parser.parse_args()
    tally, wrong = Counter[str](), 0
    with tempfile.TemporaryDirectory(prefix="hostile-") as name:
        folder = Path(name)
        scores = folder / "scores.json"
        rank = ["rank", str(TINY), *SHORT, "-o", str(scores)]
        subprocess.run(
            [sys.executable, "-m", "ggprune", *rank], check=True, stdout=subprocess.DEVNULL
        )
        for model in asked.model or VARIANTS:
            path = made(model, folder)
            for command in asked.command or COMMANDS:
                found = verdict(command, path, scores)
                is_fine = found in ("works", "one line")
                tally[f"{command}: {found if is_fine else 'wrong'}"] += 1
                wrong += not is_fine
                if not is_fine:
                    print(f"{model}, {command}: {found}", flush=True)
            path.unlink()
    print("\n".join(f"{n:5} {what}" for what, n in sorted(tally.items())))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
