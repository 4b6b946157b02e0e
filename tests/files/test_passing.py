"""Hidden files and folders: gone with the process that made them, whatever ended it."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ggprune.files.outputs import PendingFile
from ggprune.files.passing import hidden_file, hidden_name, passing_folder, remove_abandoned

KILLED = """
import os, signal, sys
from pathlib import Path
from ggprune.files.passing import hidden_file, passing_folder
folder = Path(sys.argv[1])
fd, path = hidden_file(folder)
with passing_folder(folder) as inside:
    (inside / "big").write_bytes(b"x")
    print(len(list(folder.iterdir())), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def killed(folder: Path) -> list[Path]:
    """What a killed process left in the folder."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(folder)], check=False, stdout=subprocess.PIPE
    )
    assert (done.returncode, done.stdout.split()) == (-signal.SIGKILL, [b"2"])
    return list(folder.iterdir())


def test_the_next_run_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    assert len(killed(tmp_path)) == 2
    with PendingFile(tmp_path / "out") as pending:
        assert set(tmp_path.iterdir()) <= {pending.path}
    assert len(killed(tmp_path)) == 2
    with passing_folder(tmp_path) as folder:
        assert list(tmp_path.iterdir()) == [folder]
    assert list(tmp_path.iterdir()) == []


def test_what_is_in_use_stays(tmp_path: Path) -> None:
    fd, path = hidden_file(tmp_path)
    with passing_folder(tmp_path) as folder:
        (folder / "file").touch()
        remove_abandoned(tmp_path)
        assert set(tmp_path.iterdir()) == {path, folder}
        assert (folder / "file").exists()
    os.close(fd)
    remove_abandoned(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_only_hidden_names_are_removed(tmp_path: Path) -> None:
    names = [".ggprune-1234-5.part", "ggprune-x", ".ggprune-0123456789abcdef.gguf", "a.part"]
    for name in names:
        (tmp_path / name).touch()
    (tmp_path / hidden_name(".part")).symlink_to(tmp_path / "a.part")
    remove_abandoned(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} >= set(names)


def test_where_nothing_can_be_locked_nothing_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = set(killed(tmp_path))

    def refuse(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with passing_folder(tmp_path) as folder:
        assert set(tmp_path.iterdir()) == left | {folder}
    assert set(tmp_path.iterdir()) == left
