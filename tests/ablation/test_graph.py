"""What nodes of a graph depend on, by hand-made tensors and by the library that llama.cpp uses."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

from ggprune.ablation.graph import graph_of
from ggprune.runtime.nodes import COMPUTE, TensorStruct


def tensor(name: bytes, *sources: TensorStruct) -> TensorStruct:
    made = TensorStruct(name=name, flags=COMPUTE)
    for i, source in enumerate(sources):
        made.src[i] = ctypes.addressof(source)
    return made


@pytest.mark.parametrize(
    ("copy", "reads"),
    [(b"CUDA1#l_out-3#0", (0,)), (b"RPC0[host:1]#l_out-3#2", (0,)), (b"CUDA1#other#0", ()),
     (b"l_out-3", ())],
)  # fmt: skip
def test_a_copy_to_another_device_is_what_it_is_a_copy_of(
    copy: bytes, reads: tuple[int, ...]
) -> None:
    first = tensor(b"l_out-3")
    copied = tensor(copy, first)  # made by the scheduler: nobody is asked about it
    behind = tensor(b"norm-4", copied)
    graph = graph_of([ctypes.addressof(first), ctypes.addressof(behind)])
    assert graph.reads == ((), reads)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads /proc")
def test_there_is_one_ggml_in_the_process() -> None:
    script = (
        "import re\n"
        "from pathlib import Path\n"
        "from ggprune.runtime.library import ggml\n"
        "ggml(), ggml('ggml'), ggml('ggml-cpu')\n"
        "maps = Path('/proc/self/maps').read_text()\n"
        "found = {n for n in re.findall(r'\\S+/libggml[^/\\s]*', maps) if 'base' in n}\n"
        "assert len(found) == 1, found\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
