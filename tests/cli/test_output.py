"""Results of long work: what fails on the way out takes nothing else with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ggprune.cli.output import deliver
from ggprune.errors import OutputError


def test_what_cannot_be_written_takes_nothing_with_it(tmp_path: Path) -> None:
    done: list[object] = []

    def fail(path: Path) -> None:
        raise OutputError(f"{path}: cannot be written")

    files = [(tmp_path / "a", done.append), (tmp_path / "b", fail), (None, fail)]
    with pytest.raises(OutputError, match="b: cannot be written"):
        deliver(lambda: done.append("shown"), *files, (tmp_path / "c", done.append))
    assert done == [tmp_path / "a", tmp_path / "c", "shown"]
