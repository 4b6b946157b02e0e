"""What a terminal of some width gets of a result, and that files and pipes get all of it."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ggprune.model.model import Model
from tests.conftest import EVALUATION, TINY
from tests.helpers import pruned_copy

pty = pytest.importorskip("pty", reason="a terminal of our own")
termios = pytest.importorskip("termios")
fcntl = pytest.importorskip("fcntl")

MEASURED = ("-f", EVALUATION, "-c", "64", "--chunks", "2", "-t", "1")
RANK = ("rank", TINY, *MEASURED, "--drop", "2")


def in_terminal(width: int, *args: object, folder: Path | None = None) -> str:
    """What ggprune writes to a terminal of that width."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
    parts: list[bytes] = []
    reader = threading.Thread(target=_read, args=(master, parts))
    reader.start()
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    done = subprocess.run(
        [sys.executable, "-m", "ggprune", *map(str, args)], stdout=slave, stderr=subprocess.PIPE,
        env=environment, timeout=300, check=False, cwd=folder,
    )  # fmt: skip
    os.close(slave)
    reader.join()
    os.close(master)
    assert done.returncode == 0, done.stderr
    return b"".join(parts).decode().replace("\r\n", "\n")


def _read(terminal: int, parts: list[bytes]) -> None:
    while True:
        try:
            part = os.read(terminal, 1 << 16)
        except OSError:  # the last writer has gone
            return
        if not part:
            return
        parts.append(part)


def in_pipe(*args: object) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "ggprune", *map(str, args)], capture_output=True, timeout=300,
        check=True, env={**os.environ, "COLUMNS": "40"},
    )  # fmt: skip
    return done.stdout.decode()


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_ranking_fits(width: int) -> None:
    lines = in_terminal(width, *RANK).splitlines()
    assert max(map(len, lines)) <= width
    table = next(line for line in lines if line.startswith("| layer"))
    assert "KLD without it" in table
    assert ("BI" in table) == (width == 120)
    assert any(line.startswith("(left out: ") for line in lines)


def test_pipes_and_wide_terminals_get_everything() -> None:
    args = ("synth", "--list")
    whole = in_pipe(*args)
    assert in_terminal(60, *args, "--wide") == whole
    assert in_terminal(160, *args) == whole
    assert "| source " in whole
    narrow = in_terminal(60, *args)
    assert "(left out: source; --wide shows all columns)" in narrow
    assert "| source " not in narrow
    assert in_terminal(60, *args, "--json") == in_pipe(*args, "--json")


def test_several_models_fit(tmp_path: Path, tiny: Model) -> None:
    short = pruned_copy(tiny, (2, 3), tmp_path / "short.gguf").path
    base = tmp_path / "base.gguf"
    base.symlink_to(TINY)
    models, folder = (base.name, short.name), tmp_path
    compared = in_terminal(60, "eval", *models, "--base", base.name, *MEASURED, folder=folder)
    speed = ("-p", "8", "-n", "2", "-r", "1", "-t", "1", "--memory", "--roofline")
    timed = in_terminal(60, "bench", *models, *speed, folder=folder)
    layers = in_terminal(60, "inspect", base.name, folder=folder)
    for text, header in ((compared, "KLD"), (timed, "t/s"), (layers, "kind")):
        lines = [line for line in text.splitlines() if len(line.split()) > 1]  # a word stays whole
        assert max(map(len, lines)) <= 60
        assert header in text
    assert "short.gguf" in compared
    assert timed.count("short.gguf") == 4  # two tests, memory, roofline
