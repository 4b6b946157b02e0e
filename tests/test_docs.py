"""Generated pages are what their generators make."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_page_about_architectures_is_up_to_date() -> None:
    command = [sys.executable, "-m", "docs.make_architectures", "--check"]
    done = subprocess.run(command, cwd=ROOT, check=False)
    assert done.returncode == 0, "run make docs"
