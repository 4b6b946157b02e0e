"""What `make test-portable` takes away is gone, in child processes, too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ggprune.files import locks

PORTABLE = Path(__file__).parent / "portable"
LEFT = """
import os, sys
from pathlib import Path
from ggprune.files import locks

folder = Path(sys.argv[1])
gone = ("pread", "pwrite", "O_TMPFILE", "copy_file_range", "sendfile", "fork", "geteuid")
print(*(name for name in gone if hasattr(os, name)), "in place" if locks.IN_PLACE else "beside")

def refused(function, *args):
    try:
        function(*args)
    except OSError as e:
        return e.errno in (1, 13)
    return False

first, second = folder / "first", folder / "second"
second.write_bytes(b"old")
with first.open("wb"):
    print(refused(first.unlink), refused(first.replace, second), refused(second.replace, first))
    print(refused(second.unlink))
print(refused(os.open, folder, os.O_RDONLY), refused(second.symlink_to, first))
"""


def test_nothing_is_tested_that_only_looks_portable() -> None:
    if str(PORTABLE) in os.environ.get("PYTHONPATH", "").split(os.pathsep):
        assert not hasattr(os, "pread")
        assert not locks.IN_PLACE


@pytest.mark.parametrize("is_child", [False, True])
def test_features_are_gone_and_files_in_use_stay(tmp_path: Path, is_child: bool) -> None:
    script = LEFT
    if is_child:
        start = f"[sys.executable, '-c', {LEFT!r}, *sys.argv[1:]]"
        script = f"import subprocess, sys\nsubprocess.run({start}, check=True)"
    paths = [str(PORTABLE), str(PORTABLE.parent.parent)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path], env=environment, check=True, capture_output=True,
    )  # fmt: skip
    lines = done.stdout.decode().splitlines()
    assert lines == ["beside", "True True True", "False", "True True"]
