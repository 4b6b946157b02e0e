"""What systems offer differently: the same bytes, whatever there is."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from ggprune.files import system
from ggprune.files.system import flush_folder, link_or_symlink, open_fd, read_at, write_at

DATA = bytes(range(256)) * 64


@pytest.fixture(params=["as it is", "no pread"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "no pread":
        for name in ("pread", "pwrite"):
            monkeypatch.delattr(os, name, raising=False)


@pytest.fixture
def fd(tmp_path: Path) -> int:
    opened = open_fd(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    write_at(opened, DATA, 0)
    return opened


def test_bytes_by_their_place(fd: int) -> None:
    assert read_at(fd, 3, 10) == b"\x0a\x0b\x0c"  # line ends are bytes, too
    assert read_at(fd, 1 << 20, 256 * 63) == DATA[:256]
    assert read_at(fd, 5, len(DATA)) == b""
    write_at(fd, memoryview(b"\r\n\x1a"), len(DATA))
    assert read_at(fd, 100, len(DATA)) == b"\r\n\x1a"
    os.close(fd)


def test_what_takes_several_calls(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "STEP_BYTES", 1000)
    assert read_at(fd, len(DATA) + 1, 0) == DATA
    write_at(fd, DATA[::-1], 7)
    assert read_at(fd, len(DATA), 7) == DATA[::-1]
    os.close(fd)


def test_threads_do_not_disturb_each_other(fd: int) -> None:
    wrong = []

    def read(start: int) -> None:
        for _ in range(500):
            if read_at(fd, 16, start) != DATA[start : start + 16]:
                wrong.append(start)

    threads = [threading.Thread(target=read, args=(16 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.close(fd)
    assert not wrong


def test_a_folder_is_flushed_where_that_can_be_done(tmp_path: Path) -> None:
    flush_folder(tmp_path)
    flush_folder(tmp_path / "none")


def test_another_name_where_there_are_no_symbolic_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(1, "A required privilege is not held by the client")

    (tmp_path / "file").write_bytes(b"x")
    monkeypatch.setattr(os, "symlink", refuse)
    link_or_symlink(tmp_path / "link", tmp_path / "file")
    assert (tmp_path / "link").samefile(tmp_path / "file")
    with pytest.raises(OSError, match="No such file"):
        link_or_symlink(tmp_path / "other", tmp_path / "none")
