"""Servers of llama.cpp's RPC compute the very bits of this machine's CPU.

A wheel has no RPC. `GGPRUNE_TEST_RPC`, a folder with llama.cpp's source, has its backend built as a
library of its own; without it, and without RPC in the build, this is skipped.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ggprune.errors import LlamaError
from ggprune.runtime.library import llama
from ggprune.runtime.rpc import BACKEND_PATH, add_servers, traffic
from tests.conftest import CALIBRATION, TINY
from tests.scale.site import free_port, is_open, wait_for, without_effort

SOURCE = os.environ.get("GGPRUNE_TEST_RPC")


def has_rpc() -> bool:
    try:
        add_servers(["127.0.0.1:1"])
    except LlamaError as e:
        return "without RPC" not in str(e)
    return True


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What has llama.cpp find its RPC."""
    if has_rpc():
        return {}
    if SOURCE is None:
        pytest.skip("this build of llama.cpp has no RPC (GGPRUNE_TEST_RPC=llama.cpp's source)")
    out = tmp_path_factory.mktemp("rpc") / "libggml-rpc.so"
    base = Path(str(llama().__file__)).parent / "lib" / "libggml-base.so.0"
    root = Path(SOURCE) / "ggml"
    sources = [str(root / "src" / "ggml-rpc" / name) for name in ("ggml-rpc.cpp", "transport.cpp")]
    defines = [f"-DGGML_{name}" for name in ("BACKEND_DL", "BACKEND_SHARED", "SHARED",
                                             "BACKEND_BUILD")]  # fmt: skip
    subprocess.run(
        ["g++", "-std=c++17", "-O2", "-fPIC", "-shared", *defines, f"-I{root / 'include'}",
         f"-I{root / 'src'}", *sources, str(base), f"-Wl,-rpath,{base.parent}", "-o", str(out)],
        check=True,
    )  # fmt: skip
    return {BACKEND_PATH: str(out)}


@contextmanager
def servers(n: int, environ: dict[str, str]) -> Iterator[str]:
    script = str(Path(__file__).parent / "rpc_server.py")
    ends = [f"127.0.0.1:{free_port()}" for _ in range(n)]
    started = [
        subprocess.Popen(
            [sys.executable, script, end], env={**os.environ, **environ},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        for end in ends
    ]  # fmt: skip
    try:
        for end in ends:
            wait_for(lambda end=end: is_open(int(end.rpartition(":")[2])), "a server")  # type: ignore[misc]
        yield ",".join(ends)
    finally:
        for each in started:
            each.kill()
            each.wait()


def run(*more: str, environ: dict[str, str]) -> tuple[Any, str]:
    import json

    done = subprocess.run(
        [sys.executable, "-m", "ggprune", *more, "-f", str(CALIBRATION), "--json", "-t", "1"],
        capture_output=True, text=True, check=False, env={**os.environ, **environ},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return without_effort(json.loads(done.stdout)), done.stderr


@pytest.mark.parametrize("n_server", [1, 2])
def test_the_same_bits(n_server: int, backend: dict[str, str]) -> None:
    """Whole passes, passes from a layer on, and sets of layers; an evaluation."""
    rank = ("rank", str(TINY), "-c", "128", "--chunks", "4", "--drop", "2", "--no-cache")
    score = ("eval", str(TINY), "--base", str(TINY), "-c", "128", "--chunks", "4")
    with servers(n_server, backend) as ends:
        for command in (rank, score):
            far, told = run(*command, "--rpc", ends, environ=backend)
            near, _ = run(*command, environ={})
            assert far == near
            if command is rank:
                assert "over the network, for 128 tokens: whole pass" in told
                assert "RPC servers are unprotected" in told


def test_a_server_that_is_not_there(backend: dict[str, str]) -> None:
    end = f"127.0.0.1:{free_port()}"
    done = subprocess.run(
        [sys.executable, "-m", "ggprune", "rank", str(TINY), "--rpc", end, "--no-cache"],
        capture_output=True, text=True, check=False, env={**os.environ, **backend},
    )  # fmt: skip
    assert done.returncode == 1
    said = done.stderr.splitlines()[-1]
    assert said == f"ggprune: error: --rpc {end}: no server answers: Connection refused"


def test_what_passes_over_the_network() -> None:
    """Llama 3 70B, 512 tokens: the stream at 81 places, and 131 MB of logits."""
    found = traffic(512, 256, 80, 8192, 128_256)
    assert found.base == pytest.approx(81 * 16.8e6 + 131e6, rel=0.01)
    assert found.cut == pytest.approx(16.8e6 + 131e6, rel=0.01)
    assert "pass without layers 148.1 MB (1.2 s at 1 Gb/s, 0.12 s at 10)" in found.told()
