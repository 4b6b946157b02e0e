"""What some tests need of the system that they run on; where it is not there they are skipped."""

from __future__ import annotations

import os
import signal
import tempfile
from importlib.util import find_spec
from pathlib import Path

import pytest


def _takes_any_name() -> bool:
    """May a file be named by bytes that are no UTF-8?"""
    try:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "\udce9").touch()
            return os.fsencode("\udce9") == b"\xe9"
    except OSError:
        return False


kills = pytest.mark.skipif(
    not hasattr(signal, "SIGKILL"), reason="no process is killed by a signal"
)
process_groups = pytest.mark.skipif(not hasattr(os, "killpg"), reason="there are no groups to kill")
file_limits = pytest.mark.skipif(find_spec("resource") is None, reason="files have no limit")
shell = pytest.mark.skipif(not Path("/dev/fd").exists(), reason="bash and /dev/fd are not there")
any_name = pytest.mark.skipif(not _takes_any_name(), reason="names are Unicode")
