"""Arrays in memory and on the disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ggprune.healing.kept import Kept


@pytest.mark.parametrize("memory_bytes", [0, 1000, 1 << 30])
def test_gives_back_what_was_put(tmp_path: Path, memory_bytes: int) -> None:
    rng = np.random.default_rng(0)
    arrays = {(name, i): rng.normal(size=(5, 16)).astype(np.float32)
              for name in ("a", "b") for i in range(6)}  # fmt: skip
    with Kept(tmp_path / "out.gguf", memory_bytes) as kept:
        for key, values in arrays.items():
            kept.put(*key, values)
        for key, values in arrays.items():
            assert np.array_equal(kept.get(*key), values)
        assert kept.held_bytes <= memory_bytes
        assert kept.held_bytes + kept.file_bytes == sum(a.nbytes for a in arrays.values())
        assert all(path.name.startswith(".ggprune-") for path in tmp_path.iterdir())  # or nameless
    assert not list(tmp_path.iterdir())
    assert not list(tmp_path.iterdir())


def test_room_is_used_again(tmp_path: Path) -> None:
    with Kept(tmp_path / "out.gguf", 0) as kept:
        for n in range(10):
            kept.put("stream", 0, np.full((4, 8), n, np.float32))
            kept.put("stream", 1, np.full((4, 8), -n, np.float32))
        assert kept.file_bytes == 2 * 4 * 8 * 4
        kept.drop("stream", 0)
        kept.put("other", 3, np.ones((4, 8), np.float32))
        assert kept.file_bytes == 2 * 4 * 8 * 4
        assert np.array_equal(kept.get("stream", 1), np.full((4, 8), -9, np.float32))
        with pytest.raises(KeyError):
            kept.get("stream", 0)
