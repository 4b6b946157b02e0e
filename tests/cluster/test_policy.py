"""Which work comes next: known answers."""

from __future__ import annotations

import pytest

from ggprune.cluster.policy import Open, Policy


def test_no_look_ahead_on_one_worker() -> None:
    assert Policy().n_ahead_of(1, 80, 100, is_sure=False) == 0
    assert Policy().n_ahead_of(1, 80, 100, is_sure=True) == 1  # that costs nothing
    assert Policy().n_ahead_of(8, 0, 100, is_sure=False) == 0


@pytest.mark.parametrize(
    ("n_worker", "n_set", "n_left", "ahead", "share"),
    [(8, 80, 100, 1, 4), (64, 80, 100, 12, 4), (64, 8, 100, 127 - 27, 1), (2, 3, 100, 10, 1),
     (64, 80, 3, 3, 16)],
)  # fmt: skip
def test_about_sixteen_sets_each(
    n_worker: int, n_set: int, n_left: int, ahead: int, share: int
) -> None:
    """Where that is less than a chunk for each, several share one."""
    policy = Policy()
    assert policy.n_ahead_of(n_worker, n_set, n_left, is_sure=False) == ahead
    assert policy.n_share(n_worker, ahead) == share


def test_what_is_surely_wanted_is_begun_by_all() -> None:
    policy = Policy()
    assert policy.n_ahead_of(8, 80, 100, is_sure=True) == 15
    assert policy.n_share(8, 15) == 1
    assert policy.n_ahead_of(8, 80, 2, is_sure=True) == 2
    assert policy.n_share(8, 2) == 2


def test_a_chunk_that_is_waited_for_comes_first() -> None:
    chunks = {3: Open(8, 0, True), 4: Open(8, 0, False)}
    assert Policy().pick(chunks, {4}, 1, is_idle=True) == 3
    assert Policy().pick(chunks, {3, 4}, 1, is_idle=True) == 3


def test_what_is_held_comes_before_what_others_do() -> None:
    chunks = {3: Open(8, 1, True), 4: Open(8, 0, False), 5: Open(8, 0, False)}
    assert Policy().pick(chunks, {5}, 1, is_idle=True) == 5
    assert Policy().pick(chunks, {}, 1, is_idle=True) == 4
    assert Policy().pick(chunks, {}, 2, is_idle=True) == 3


def test_only_an_idle_worker_helps_where_all_chunks_have_one() -> None:
    chunks = {3: Open(8, 1, True), 4: Open(1, 1, False)}
    assert Policy().pick(chunks, {}, 1, is_idle=False) is None
    assert Policy().pick(chunks, {}, 1, is_idle=True) == 3
    assert Policy().pick({4: Open(1, 1, True)}, {}, 1, is_idle=True) is None
    assert Policy().pick({}, {}, 1, is_idle=True) is None


def test_sets_of_a_task() -> None:
    assert [Policy().n_take(n, 1, 2) for n in (1, 8, 80)] == [1, 8, 8]
    assert [Policy().n_take(n, 4, 8) for n in (1, 8, 80)] == [1, 2, 8]
    assert [Policy().n_take(n, 1, 1) for n in (1, 8, 80)] == [1, 8, 16]
