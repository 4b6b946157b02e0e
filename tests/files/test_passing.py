"""Hidden files and folders: gone with the process that made them, whatever ended it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ggprune.files import locks
from ggprune.files.locks import BESIDE, hold
from ggprune.files.outputs import PendingFile
from ggprune.files.passing import (
    hidden_file,
    hidden_name,
    passing_folder,
    remove_abandoned,
    remove_unheld,
)
from tests.systems import kills

KILLED = """
import os, signal, sys
from pathlib import Path
from ggprune.files.passing import hidden_file, passing_folder
folder = Path(sys.argv[1])
fd, held = hidden_file(folder)
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
    n_file = 2 if locks.IN_PLACE else 4
    assert (done.returncode, int(done.stdout)) == (-signal.SIGKILL, n_file)
    return list(folder.iterdir())


def things(folder: Path) -> set[Path]:
    """All but locks."""
    return {path for path in folder.iterdir() if path.suffix != BESIDE}


@kills
def test_the_next_run_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    assert killed(tmp_path)
    with PendingFile(tmp_path / "out") as pending:
        assert things(tmp_path) <= {pending.path}
    assert list(tmp_path.iterdir()) == []
    assert killed(tmp_path)
    with passing_folder(tmp_path) as folder:
        assert things(tmp_path) == {folder}
    assert list(tmp_path.iterdir()) == []


def test_what_is_in_use_stays(tmp_path: Path) -> None:
    fd, held = hidden_file(tmp_path)
    with passing_folder(tmp_path) as folder:
        (folder / "file").touch()
        remove_abandoned(tmp_path)
        assert things(tmp_path) == {held.path, folder}
        assert (folder / "file").exists()
    os.close(fd)
    remove_abandoned(tmp_path)
    assert things(tmp_path) == {held.path}
    held.release()
    remove_abandoned(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_only_hidden_names_are_removed(tmp_path: Path) -> None:
    names = [".ggprune-1234-5.part", "ggprune-x", ".ggprune-0123456789abcdef.gguf", "a.part"]
    for name in names:
        (tmp_path / name).touch()
    with contextlib.suppress(OSError):  # where links can be made
        (tmp_path / hidden_name(".part")).symlink_to(tmp_path / "a.part")
    remove_abandoned(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} >= set(names)


@kills
@pytest.mark.parametrize("lacking", ["file system", "system"])
def test_where_nothing_can_be_locked_nothing_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacking: str
) -> None:
    left = set(killed(tmp_path))

    def refuse(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    if lacking == "system":
        monkeypatch.setattr(locks, "IN_PLACE", False)
        monkeypatch.setattr(locks, "_fcntl", None)
        monkeypatch.setattr(locks, "_msvcrt", None)
    else:
        module, name = (locks._fcntl, "flock") if locks.IN_PLACE else (locks._msvcrt, "locking")
        monkeypatch.setattr(module, name, refuse)
    with passing_folder(tmp_path) as folder:
        assert things(tmp_path) >= {folder}
        assert left <= set(tmp_path.iterdir())
    assert set(tmp_path.iterdir()) == left


def test_one_holds_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    first = hold(path)
    assert first.is_locked
    with pytest.raises(BlockingIOError):
        hold(path)
    remove_unheld(path)
    assert path.exists()
    first.release()
    remove_unheld(path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(locks.IN_PLACE, reason="locks lie in the files themselves")
def test_what_has_no_lock_beside_it_is_left_alone(tmp_path: Path) -> None:
    """Another system may hold it in a way of its own, on a disk that both see."""
    (tmp_path / hidden_name(".part")).touch()
    (tmp_path / hidden_name(".tmp")).mkdir()
    before = set(tmp_path.iterdir())
    (tmp_path / (hidden_name(".part") + BESIDE)).touch()  # all that a killed process left
    remove_abandoned(tmp_path)
    assert set(tmp_path.iterdir()) == before
