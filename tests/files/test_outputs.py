from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ggprune.errors import OutputError
from ggprune.files import outputs
from ggprune.files.outputs import (
    PendingFile,
    check_output,
    check_outputs,
    commit_all,
    write_text,
)
from ggprune.files.system import link_or_symlink


@pytest.fixture(params=["nameless", "named"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of hiding a file: without a name, and where that is impossible."""
    if request.param == "named":
        monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    return str(request.param)


def test_a_committed_file_is_all_there_is(tmp_path: Path, way: str) -> None:
    target = tmp_path / "out"
    with PendingFile(target) as pending:
        os.write(pending.fd, b"content")
        assert pending.path.read_bytes() == b"content"
        assert not target.exists()
        pending.commit(force=False)
    assert target.read_bytes() == b"content"
    assert list(tmp_path.iterdir()) == [target]
    assert target.stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_failure_leaves_nothing(tmp_path: Path, way: str) -> None:
    with pytest.raises(RuntimeError), PendingFile(tmp_path / "out") as pending:
        os.write(pending.fd, b"half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_survives_until_the_commit(tmp_path: Path, way: str) -> None:
    target = tmp_path / "out"
    target.write_bytes(b"old")
    with PendingFile(target) as pending:
        os.write(pending.fd, b"new")
        with pytest.raises(OutputError, match="appeared meanwhile"):
            pending.commit(force=False)
        assert target.read_bytes() == b"old"
    with PendingFile(target) as pending:
        os.write(pending.fd, b"new")
        pending.commit(force=True)
    assert target.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.skipif(not hasattr(os, "O_TMPFILE"), reason="needs nameless files")
def test_a_killed_process_leaves_nothing(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from ggprune.files.outputs import PendingFile\n"
        "with PendingFile(Path(sys.argv[1]) / 'out') as pending:\n"
        "    os.write(pending.fd, b'half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    """Names of a set, the first two of which are taken."""
    names = [tmp_path / name for name in "abc"]
    names[0].write_bytes(b"old a")
    names[1].write_bytes(b"old b")
    return names


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def filled(stack: contextlib.ExitStack, names: list[Path]) -> list[PendingFile]:
    files = [stack.enter_context(PendingFile(name)) for name in names]
    for file in files:
        os.write(file.fd, b"new " + file.target.name.encode())
    return files


def test_a_set_is_published_together(tmp_path: Path, way: str, three: list[Path]) -> None:
    with contextlib.ExitStack() as stack:
        commit_all(filled(stack, three), force=True)
    assert contents(tmp_path) == {"a": b"new a", "b": b"new b", "c": b"new c"}


def test_a_set_that_must_not_replace_changes_nothing(
    tmp_path: Path, way: str, three: list[Path]
) -> None:
    before = contents(tmp_path)
    with contextlib.ExitStack() as stack, pytest.raises(OutputError, match="b: appeared"):
        commit_all(filled(stack, three), force=False)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("linked", [True, False])
@pytest.mark.parametrize("failing", ["a", "b", "c"])
def test_what_was_replaced_is_put_back(
    tmp_path: Path, way: str, three: list[Path], failing: str, linked: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    before, publish = contents(tmp_path), PendingFile.publish

    def fails(file: PendingFile, *, force: bool) -> None:
        if file.target.name == failing:
            raise KeyboardInterrupt
        publish(file, force=force)

    monkeypatch.setattr(PendingFile, "publish", fails)
    if not linked:  # as on a file system where files have but one name
        monkeypatch.setattr(outputs, "_linked", lambda path, target: False)
    with contextlib.ExitStack() as stack, pytest.raises(KeyboardInterrupt):
        commit_all(filled(stack, three), force=True)
    assert contents(tmp_path) == before


def test_outputs_that_are_refused(tmp_path: Path) -> None:
    source = tmp_path / "in.gguf"
    source.write_bytes(b"x")
    hard, soft = tmp_path / "hard", tmp_path / "soft"
    os.link(source, hard)
    link_or_symlink(soft, source)
    for target in (source, hard, soft):
        with pytest.raises(OutputError, match="is the input itself"):
            check_output(target, [source], force=True)
    other = tmp_path / "other"
    other.write_bytes(b"y")
    with pytest.raises(OutputError, match="--force"):
        check_output(other, [source], force=False)
    check_output(other, [source], force=True)
    with pytest.raises(OutputError, match="is a folder"):
        check_output(tmp_path, [source], force=True)
    with pytest.raises(OutputError, match="there is no folder"):
        check_output(tmp_path / "no" / "out", [source], force=True)
    with pytest.raises(OutputError, match="are free"):
        check_output(tmp_path / "new", [source], force=False, size_bytes=1 << 60)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["hard", "in.gguf", "other", "soft"]


def test_outputs_must_differ_from_each_other_and_from_inputs(tmp_path: Path) -> None:
    source, text = tmp_path / "in.gguf", tmp_path / "text.txt"
    source.write_bytes(b"x")
    text.write_bytes(b"y")
    check_outputs([tmp_path / "a", None, tmp_path / "b"], [source, None], force=False)
    with pytest.raises(OutputError, match="named as an output twice"):
        check_outputs([tmp_path / "a", tmp_path / "." / "a"], [source], force=True)
    with pytest.raises(OutputError, match="named as an output twice"):  # some systems say so
        check_outputs([tmp_path / "scores.json", tmp_path / "Scores.json"], [source], force=True)
    with pytest.raises(OutputError, match="is the input itself"):
        check_outputs([tmp_path / "a", text], [source, text], force=True)
    with pytest.raises(OutputError, match="not a regular file"):
        check_outputs([Path(os.devnull)], [], force=True)
    with pytest.raises(OutputError, match=r"(?i)name too long|cannot be written"):
        check_outputs([tmp_path / ("x" * 300)], [], force=True)


def test_small_files_are_written_the_same_way(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    write_text(path, "one", force=False)
    write_text(path, "two", force=True)
    assert path.read_text() == "two"
    with pytest.raises(OutputError):
        write_text(path, "three", force=False)
