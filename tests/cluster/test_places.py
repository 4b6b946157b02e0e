"""What worker processes are told, and which of them a machine gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from ggprune.cluster.address import address_of, is_exposed
from ggprune.cluster.place import Place, parse_path_map, this_place
from ggprune.cluster.plans import Machine, chosen_gpus, plans_for, visible
from ggprune.errors import DataError, UsageError

BOX = Machine(
    gpus=tuple(f"CUDA{i}" for i in range(8)), nodes=((0, 1), (2, 3)), n_thread=32,
    free_bytes=64 << 30,
)  # fmt: skip


def test_a_place_is_sent_by_the_environment() -> None:
    place = Place(threads=3, contexts=2, keep_bytes=7, path_map=(("/a", "/b"),), cpus=(0, 4),
                  log="/tmp/x", rpc=("host:1",))  # fmt: skip
    assert this_place(place.environ()) == place
    assert this_place({}) == Place()


def test_paths_are_mapped_by_how_they_begin() -> None:
    place = Place(path_map=parse_path_map(["/there=/here", "/=/below/"]))
    assert place.path("/there/m.gguf") == Path("/here/m.gguf")
    assert place.path("/other/m.gguf") == Path("/below/other/m.gguf")
    with pytest.raises(UsageError, match="--path-map /there=: write OLD=NEW"):
        parse_path_map(["/there="])


@pytest.mark.parametrize(
    ("n_worker", "each", "seen"),
    [(None, 1, [str(i) for i in range(8)]), (2, 1, ["0", "1"]), (None, 3, ["0,1,2", "3,4,5"]),
     (2, 4, ["0,1,2,3", "4,5,6,7"])],
)  # fmt: skip
def test_every_worker_has_gpus_of_its_own(n_worker: int | None, each: int, seen: list[str]) -> None:
    plans = plans_for(BOX, n_worker, each, Place(), {})
    assert [plan.environ["CUDA_VISIBLE_DEVICES"] for plan in plans] == seen
    assert {plan.place.threads for plan in plans} == {32 // len(plans)}
    assert {plan.place.keep_bytes for plan in plans} == {(16 << 30) // len(plans)}
    assert len({plan.name for plan in plans}) == len(plans)


def test_gpus_that_this_process_does_not_see_stay_hidden() -> None:
    given = {"CUDA_VISIBLE_DEVICES": "4,6,GPU-1a2b"}
    machine = Machine(gpus=("CUDA0", "CUDA1", "CUDA2"), nodes=(), n_thread=8)
    plans = plans_for(machine, None, 1, Place(), given)
    assert [p.environ["CUDA_VISIBLE_DEVICES"] for p in plans] == ["4", "6", "GPU-1a2b"]


@pytest.mark.parametrize(
    ("backend", "name", "value"),
    [("ROCm", "HIP_VISIBLE_DEVICES", "1"), ("Vulkan", "GGML_VK_VISIBLE_DEVICES", "1"),
     ("SYCL", "ONEAPI_DEVICE_SELECTOR", "level_zero:1")],
)  # fmt: skip
def test_other_backends_have_variables_of_their_own(backend: str, name: str, value: str) -> None:
    machine = Machine(gpus=(f"{backend}0", f"{backend}1"), nodes=(), n_thread=2)
    assert visible(machine, (1,), {}) == {name: value}
    assert visible(Machine(gpus=("MTL0",), nodes=(), n_thread=2), (0,), {}) == {}


def test_gpus_can_be_chosen() -> None:
    machine = chosen_gpus(BOX, (5, 7))
    plans = plans_for(machine, None, 1, Place(threads=2, keep_bytes=7), {})
    assert [plan.environ["CUDA_VISIBLE_DEVICES"] for plan in plans] == ["5", "7"]
    assert {(plan.place.threads, plan.place.keep_bytes) for plan in plans} == {(2, 7)}
    assert chosen_gpus(BOX, None) == BOX
    with pytest.raises(UsageError, match=r"--gpus 8: llama.cpp sees 8 GPUs here"):
        chosen_gpus(BOX, (8,))


def test_without_gpus_one_for_each_numa_node() -> None:
    machine = Machine(gpus=(), nodes=((0, 1), (2, 3)), n_thread=4)
    plans = plans_for(machine, None, 1, Place(), {})
    assert [plan.place.cpus for plan in plans] == [(0, 1), (2, 3)]
    assert [plan.place.threads for plan in plans] == [2, 2]
    assert [plan.place.cpus for plan in plans_for(machine, 3, 1, Place(), {})] == [()] * 3
    assert len(plans_for(Machine(gpus=(), nodes=(), n_thread=4), None, 1, Place(), {})) == 1


def test_more_workers_than_gpus() -> None:
    with pytest.raises(UsageError, match=r"^--workers 9: there are 8 GPUs$"):
        plans_for(BOX, 9, 1, Place(), {})
    with pytest.raises(UsageError, match=r"^--workers 3 of 4 GPUs each: there are 8 GPUs$"):
        plans_for(BOX, 3, 4, Place(), {})


def test_addresses(tmp_path: Path) -> None:
    file = tmp_path / "scheduler.json"
    file.write_text('{"address": "tls://10.0.0.7:8786"}')
    assert address_of(str(file)) == "tls://10.0.0.7:8786"
    assert address_of("tcp://host:8786") == "tcp://host:8786"
    for wrong in ("host:8786", "http://host:1", "tcp://host", "tcp://host:x"):
        with pytest.raises(UsageError, match=r"no scheduler; write tcp://host:port"):
            address_of(wrong)
    file.write_text("[]")
    with pytest.raises(DataError, match="not a file that dask scheduler"):
        address_of(str(file))
    exposed = ("tcp://10.0.0.7:8786", "tls://10.0.0.7:8786", "tcp://127.0.0.1:1", "tcp://[::1]:1")
    assert list(map(is_exposed, exposed)) == [True, False, False, False]
