"""Generated pages are what their generators make."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("page", ["architectures", "formats"])
def test_pages_are_up_to_date(page: str) -> None:
    command = [sys.executable, "-m", f"docs.make_{page}", "--check"]
    done = subprocess.run(command, cwd=ROOT, check=False)
    assert done.returncode == 0, "run make docs"
