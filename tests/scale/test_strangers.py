"""Workers that are not what they should be: refused by name, or kept apart."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ggprune
from ggprune.errors import DataError
from ggprune.model.model import Model, open_model
from ggprune.report.blocks import Text
from ggprune.report.ranking import blocks
from ggprune.scoring.rank import RankOptions
from tests.conftest import TINY
from tests.scale import jobs
from tests.scale.site import SLOW, Listener, Site, numbers_of, preloading, site, wait_for


def start_strange(place: Site, how: str) -> None:
    place.start_worker(**preloading("strange", "slow"), GGPRUNE_TEST_STRANGE=how)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("commit", r": has llama\.cpp fffffff, the coordinator [0-9a-f]{7}"),
        ("version", r": has ggprune 0\.0\.1, the coordinator 0\."),
        ("unsteady", r": does not repeat itself: the same chunk gave other logits"),
    ],
)
def test_nobody_is_left(how: str, said: str, tmp_path: Path) -> None:
    with (
        site(tmp_path) as place,
        place.force(Listener()) as force,
        pytest.raises(DataError, match=f"^no worker may take part: .*{said}"),
    ):
        start_strange(place, how)
        jobs.all_layers(force)


def test_another_file_under_the_name(tmp_path: Path, alone: dict[str, Any], dead: Model) -> None:
    """The others go on. Where paths begin differently, a worker can be told."""
    there = tmp_path / "there"
    (there / "wrong").mkdir(parents=True)
    shutil.copy(TINY, there / TINY.name)
    shutil.copy(dead.path, there / "wrong" / TINY.name)
    listener = Listener()
    with site(tmp_path) as place, place.force(listener) as force:
        place.start_worker("--path-map", f"{TINY.parent}={there}", **SLOW)
        place.start_worker("--path-map", f"{TINY.parent}={there / 'wrong'}")
        place.start_worker("--path-map", f"{TINY.parent}={there / 'nowhere'}")
        (there / "folder" / TINY.name).mkdir(parents=True)
        place.start_worker("--path-map", f"{TINY.parent}={there / 'folder'}")
        wait_for(lambda: len(force.client.nthreads()) == 4, "four workers")
        ranking = jobs.all_layers(force, progress=listener)
    assert numbers_of(ranking) == alone["rank"]
    expected = open_model(TINY).fingerprint[:8]
    assert listener.told(f"is another model ({dead.fingerprint[:8]}..., expected {expected}...)")
    assert listener.told(f"{there / 'nowhere' / TINY.name}: not found; --path-map?")
    assert listener.told(f"{there / 'folder' / TINY.name}: ")
    assert len(listener.told("has joined")) == 1


def test_settings_that_do_not_fit(tmp_path: Path, alone: dict[str, Any]) -> None:
    """A plain worker of Dask's is as good as any, if its settings are."""
    listener = Listener()
    with site(tmp_path) as place, place.force(listener) as force:
        place.start_plain("--nthreads", "1", "--memory-limit", "0")
        place.start_plain("--nthreads", "1", "--memory-limit", "9GB")
        place.start_plain("--nthreads", "2", "--memory-limit", "0")
        wait_for(lambda: len(force.client.nthreads()) == 3, "three workers")
        assert numbers_of(jobs.all_layers(force, progress=listener)) == alone["rank"]
    assert listener.told("a worker with a memory limit of 9000000000 bytes is killed for mapping")
    assert listener.told("a worker of 2 threads computes as many chunks at once")
    assert len(listener.told("has joined")) == 1


def test_another_arithmetic_is_refused(quantized: Path, tmp_path: Path) -> None:
    listener = Listener()
    with site(tmp_path, 1, environ=SLOW) as place, place.force(listener) as force:
        wait_for(force.client.nthreads, "a worker")
        options = RankOptions(measuring=jobs.MEASURING)
        model = open_model(quantized)
        expected = numbers_of(ggprune.rank(model, jobs.text(), options))
        first = ggprune.rank(model, jobs.text(), options, client=force)  # it has loaded the model
        assert first.workers is not None
        start_strange(place, "flash")
        wait_for(lambda: len(force.client.nthreads()) == 2, "two workers")
        ranking = ggprune.rank(model, jobs.text(), options, listener, client=force)
        assert ranking.workers is not None
        assert {worker.bits for worker in ranking.workers} == {first.workers[0].bits}
        assert numbers_of(ranking) == expected
    (told,) = listener.told("worker refused")
    assert "computes differently from" in told
    assert "a KLD of" in told
    assert told.endswith("--mixed lets it in")


def test_mixed(dead: Model, quantized: Path, tmp_path: Path) -> None:
    """No chunk of two kinds; what a dead layer loses is nothing; and next to nothing moves."""
    for path in (dead.path, quantized):
        model, options = open_model(path), RankOptions(measuring=jobs.MEASURING)
        expected = ggprune.rank(model, jobs.text(), options)
        folder = tmp_path / path.stem
        folder.mkdir()
        with (
            site(folder, 1, environ=SLOW) as place,
            place.force(Listener(), mixed=True) as force,
        ):
            start_strange(place, "flash")
            wait_for(lambda force=force: len(force.client.nthreads()) == 2, "two workers")  # type: ignore[misc]
            ranking = ggprune.rank(model, jobs.text(), options, client=force)
        assert ranking.kinds is not None
        first, second = ranking.kinds
        chunks = [ggprune.parse_layers(kind.chunks, 8) for kind in (first, second)]
        assert sorted([*chunks[0], *chunks[1]]) == list(range(8))
        assert min(first.kld, second.kld) == 0 < max(first.kld, second.kld) < 0.01
        for mine, right in zip(ranking.layers, expected.layers, strict=True):
            assert abs(mine.kld.value - right.kld.value) <= 0.3 * right.kld.se
        if path == dead.path:
            assert ranking.layers[4].kld.value == 0
        told = "\n".join(p for b in blocks(ranking) if isinstance(b, Text) for p in b.lines)
        assert f"Chunks {first.chunks} on CPU" in told
        assert "every comparison is within one of them" in told


def test_a_chunk_is_known_by_one_kind(tmp_path: Path) -> None:
    """What was measured by one kind is never given out beside the other's."""
    listener, cache = Listener(), tmp_path / "cache"
    with site(tmp_path, 1) as place, place.force(listener, mixed=True) as force:
        jobs.all_layers(force, cache, n_chunk=4)
        start_strange(place, "flash")
        wait_for(lambda: len(force.client.nthreads()) == 2, "two workers")
        both = jobs.all_layers(force, cache)
    alone = jobs.all_layers(None)
    assert both.effort.n_cached == 40
    assert [score.layer for score in both.layers] == [score.layer for score in alone.layers]
    for mine, right in zip(both.layers, alone.layers, strict=True):
        assert np.isclose(mine.kld.value, right.kld.value, rtol=1e-3)
