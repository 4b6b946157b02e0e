"""Measuring sets of layers: caches, interruptions, the work it takes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ggprune.files.cachefolder import user_cache
from ggprune.files.documents import to_text
from ggprune.metrics.chunks import Chunks
from ggprune.metrics.similarity import angular_distances, influences, relative_magnitudes
from ggprune.metrics.text import read_text
from ggprune.model.cut import Cut
from ggprune.model.model import Model, open_model
from ggprune.scoring.cache import ScoreCache
from ggprune.scoring.measure import MeasureOptions
from ggprune.scoring.remembered import open_rows
from tests.arch.families import FAMILIES
from tests.conftest import CALIBRATION, EVALUATION, TINY
from tests.scoring.ranked import ranked
from tests.systems import process_groups

N_CTX, N_CHUNK = 128, 4


def test_half_of_the_work(tiny: Model) -> None:
    ranking = ranked(tiny, read_text(CALIBRATION), n_ctx=N_CTX, n_chunk=N_CHUNK)
    plain = ranked(tiny, read_text(CALIBRATION), n_ctx=N_CTX, n_chunk=N_CHUNK, share_prefix=False)
    assert ranking.layers == plain.layers
    assert ranking.effort.n_pass == plain.effort.n_pass == N_CHUNK * 10
    # llama-perplexity would compute 1 + 9 whole models; the base pass here is one of them.
    assert ranking.effort.work <= 0.56 * plain.effort.work


def test_what_is_cached_is_not_computed_again(tiny: Model, tmp_path: Path) -> None:
    text = read_text(CALIBRATION)
    first = ranked(tiny, text, n_ctx=N_CTX, n_chunk=2, cache=tmp_path)
    again = ranked(tiny, text, n_ctx=N_CTX, n_chunk=2, cache=tmp_path)
    assert again.layers == first.layers
    assert np.array_equal(again.windows, first.windows)
    assert (again.effort.n_pass, again.effort.n_cached) == (0, 20)
    more = ranked(tiny, text, n_ctx=N_CTX, n_chunk=N_CHUNK, cache=tmp_path)
    assert (more.effort.n_pass, more.effort.n_cached) == (20, 20)
    assert more.layers == ranked(tiny, text, n_ctx=N_CTX, n_chunk=N_CHUNK).layers
    other = ranked(tiny, read_text(EVALUATION), n_ctx=N_CTX, n_chunk=2, cache=tmp_path)
    assert other.effort.n_cached == 0


@process_groups
def test_a_killed_run_continues(tiny: Model, tmp_path: Path) -> None:
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "ggprune", "rank", str(TINY), "-f", str(CALIBRATION),
               "-c", str(N_CTX), "--chunks", "60", "--exhaustive", "--json"]  # fmt: skip
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, start_new_session=True)
    folder = tmp_path / "ggprune"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not _n_entry(folder):
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    n_kept = _n_entry(folder)
    assert 0 < n_kept < 600
    text = read_text(CALIBRATION)
    resumed = ranked(tiny, text, n_ctx=N_CTX, n_chunk=60, cache=folder)
    whole = ranked(tiny, text, n_ctx=N_CTX, n_chunk=60)
    assert resumed.effort.n_cached + resumed.effort.n_pass >= 600
    assert resumed.effort.n_cached > 0
    assert resumed.layers == whole.layers


def _n_entry(folder: Path) -> int:
    import sqlite3

    files = list(folder.glob("*.sqlite"))
    if not files:
        return 0
    try:
        with sqlite3.connect(files[0], timeout=5) as connection:
            return int(connection.execute("SELECT count(*) FROM entry").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def test_sets_on_top_of_sets(tiny: Model) -> None:
    text, options = read_text(CALIBRATION), MeasureOptions(n_ctx=N_CTX, n_chunk=2)
    with open_rows(tiny, text, options) as source:
        (direct,) = source.rows(1, [Cut.of((2, 4, 6))])
        (behind,) = source.rows(1, [Cut.of((2, 4, 6))], within=Cut.of((2, 4)))
        assert np.array_equal(direct.kld, behind.kld)
        (same,) = source.rows(1, [Cut.of((2, 4))], within=Cut.of((2, 4)))
        (again,) = source.rows(1, [Cut.of((4, 2))])
        assert np.array_equal(same.kld, again.kld)


def test_what_is_measured_is_remembered(tiny: Model, tmp_path: Path) -> None:
    """Of two cuts one is known: the other one and the whole model are computed, once."""
    text, options = read_text(CALIBRATION), MeasureOptions(n_ctx=N_CTX, n_chunk=2, cache=tmp_path)
    one, two = Cut.of((2,)), Cut.of((2, 4))
    with open_rows(tiny, text, options) as source:
        (known,) = source.rows(1, [one])
        assert (source.effort.n_pass, source.effort.n_cached) == (2, 0)
        base = source.base_nll(1)
        assert source.effort.n_cached == 0
    with open_rows(tiny, text, options) as source:
        both = list(source.rows(1, [two, one]))
        assert (source.effort.n_pass, source.effort.n_cached) == (2, 1)
        assert np.array_equal(both[1].kld, known.kld)
        assert not np.array_equal(both[0].kld, known.kld)
    with open_rows(tiny, text, options) as source:
        again = list(source.rows(1, [two, one]))
        assert all(np.array_equal(a.kld, b.kld) for a, b in zip(again, both, strict=True))
        assert np.array_equal(source.base_nll(1), base)
        assert np.array_equal(source.base_nll(1), base)
        assert (source.effort.n_pass, source.effort.n_cached) == (0, 3)


def test_a_race_costs_less_and_decides_the_same(tiny: Model) -> None:
    text = read_text(CALIBRATION)
    exhaustive = ranked(tiny, text, n_ctx=N_CTX)
    race = ranked(tiny, text, n_ctx=N_CTX, n_decide=4)
    assert set(race.order[:4]) == set(exhaustive.order[:4])
    assert race.effort.n_pass < exhaustive.effort.n_pass / 2
    assert min(s.kld.n for s in race.layers) < max(s.kld.n for s in exhaustive.layers) / 3
    assert race.undecided == ()


ARRAYS = {"x": np.arange(6.0).reshape(2, 3), "y": np.array([True, False])}


def open_cache(folder: Path, notes: list[str], **settings: int) -> ScoreCache:
    return ScoreCache(folder, settings, notes.append)


def is_kept(cache: ScoreCache, chunk: int = 3, name: str = "1,2") -> bool:
    """Is there such an entry? If so, it must be right."""
    found = cache.get(chunk, [name])
    assert all(np.array_equal(found[name][key], ARRAYS[key]) for key in ARRAYS if found)
    return bool(found)


def test_the_cache_keeps_what_belongs_to_its_settings(tmp_path: Path) -> None:
    notes: list[str] = []
    cache = open_cache(tmp_path / "new" / "folder", notes, a=1)
    cache.put(3, "1,2", ARRAYS)
    cache.close()
    again = open_cache(tmp_path / "new" / "folder", notes, a=1)
    assert is_kept(again)
    assert not is_kept(again, name="2")
    assert not is_kept(again, chunk=2)
    assert not is_kept(open_cache(tmp_path / "new" / "folder", notes, a=2))
    assert not notes


def test_a_cache_that_cannot_be_used_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    notes: list[str] = []
    cache = open_cache(tmp_path / "file", notes)
    cache.put(3, "1,2", ARRAYS)
    assert not is_kept(cache)
    (note,) = notes
    assert "cannot be used" in note


def test_a_flipped_byte_in_the_cache_is_not_read(tmp_path: Path) -> None:
    notes: list[str] = []
    cache = open_cache(tmp_path, notes)
    cache.put(3, "1,2", ARRAYS)
    cache.close()
    raw = bytearray(cache.path.read_bytes())
    place = raw.index(ARRAYS["x"].tobytes())
    raw[place + 9] ^= 1
    cache.path.write_bytes(raw)
    again = open_cache(tmp_path, notes)
    assert not is_kept(again)
    assert "damaged entries" in notes[0]
    again.put(3, "1,2", ARRAYS)
    assert is_kept(again)


@pytest.mark.parametrize("damage", [b"garbage", b"", b"\xaa" * 5000])
@pytest.mark.parametrize("start", [0, 4096, 8192])
def test_a_damaged_cache_is_begun_anew(tmp_path: Path, damage: bytes, start: int) -> None:
    notes: list[str] = []
    cache = open_cache(tmp_path, notes)
    for chunk in range(40):
        cache.put(chunk, "1,2", {**ARRAYS, "z": np.zeros(100)})
    cache.close()
    raw = cache.path.read_bytes()
    cache.path.write_bytes(raw[:start] + damage + (raw[start + len(damage) :] if damage else b""))
    again = open_cache(tmp_path, notes)
    for chunk in range(40):
        is_kept(again, chunk)  # what is still there is right
        again.put(chunk, "1,2", ARRAYS)
    again.close()
    assert sum(is_kept(open_cache(tmp_path, notes), chunk) for chunk in range(40)) == 40
    assert len(notes) <= 2


def test_another_models_numbers_are_not_taken(tiny: Model, tmp_path: Path) -> None:
    """400 rows of the embeddings exchanged among themselves: the middle of the tensor stays."""
    text = read_text(CALIBRATION)
    ranked(tiny, text, n_ctx=N_CTX, n_chunk=1, cache=tmp_path)
    other = tmp_path / "other.gguf"
    shutil.copy(TINY, other)
    table = tiny.by_name["token_embd.weight"]
    rows = np.memmap(other, np.float16, "r+", table.offset, (table.shape[1], table.shape[0]))
    rows[40:440] = rows[40:440][::-1].copy()
    rows.flush()
    changed = ranked(open_model(other), text, n_ctx=N_CTX, n_chunk=1, cache=tmp_path)
    assert changed.effort.n_cached == 0
    assert changed.layers == ranked(open_model(other), text, n_ctx=N_CTX, n_chunk=1).layers
    assert changed.base_ppl.value > 2 * ranked(tiny, text, n_ctx=N_CTX, n_chunk=1).base_ppl.value


def test_the_users_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_cache() == tmp_path / "ggprune"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert user_cache() == Path.home() / ".cache" / "ggprune"

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    assert user_cache() is None


def test_similarities_of_known_streams() -> None:
    a = np.array([[1, 0], [0, 2]], np.float32)
    b = np.array([[0, 3], [0, 1]], np.float32)  # a right angle, and the same direction
    assert influences([a, b]).tolist() == [[1, 0]]
    assert relative_magnitudes([a, b])[0] == pytest.approx([np.sqrt(10) / 3, 1])
    distances = angular_distances([a, b, -b])
    assert distances[0, 1] == pytest.approx(0.25)  # a half turn is 1: (0.5 + 0) / 2
    assert distances[1, 2] == pytest.approx(1)
    assert distances[2, 0] == 0


def test_a_layer_whose_input_has_no_name_is_left_out_of_the_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RWKV normalizes the embeddings within layer 0: the graph has no name for what follows."""
    model = next(f for f in FAMILIES if f.name == "rwkv7").make(tmp_path)
    chunks = Chunks(np.array([[i * 37 % 128 for i in range(64)]] * 2, np.int32))
    monkeypatch.setattr("ggprune.scoring.measure.make_chunks", lambda *_: chunks)
    ranking = ranked(model, read_text(CALIBRATION), n_ctx=64)
    n_layer = model.n_layer
    assert sorted(ranking.order) == list(range(1, n_layer))
    assert all(np.isfinite(score.bi.value) for score in ranking.layers)
    document = json.loads(to_text(ranking))
    assert document["windows"][0][1] is None
    assert document["windows"][1][2] > 0
