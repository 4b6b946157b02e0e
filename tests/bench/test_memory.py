from __future__ import annotations

from ggprune.bench.cases import Case
from ggprune.bench.runner import measure_memory
from ggprune.files.documents import encode_fields
from ggprune.model.model import Model
from ggprune.runtime.buffers import Buffer, Cache, parse_buffers, peak_rss_bytes
from ggprune.runtime.isolate import isolated
from tests.conftest import TINY

MIB = 1 << 20
ROUNDING = 0.0051 * MIB  # llama.cpp logs two decimals

LOG = """\
load_tensors:   CPU_Mapped model buffer size =  4437.80 MiB
load_tensors:        CUDA0 model buffer size =   512.25 MiB
llama_context:  CUDA_Host  output buffer size =     0.49 MiB
llama_kv_cache:      CUDA0 KV buffer size =    10.00 MiB
llama_kv_cache: size =   10.00 MiB (   512 cells,   8 layers,  1/1 seqs), K (f16):    5.00 MiB
llama_kv_cache:      CUDA0 KV buffer size =     2.00 MiB
llama_kv_cache: size =    2.00 MiB (   256 cells,   2 layers,  1/1 seqs), K (f16):    1.00 MiB
llama_memory_recurrent:      CUDA0 RS buffer size =     1.00 MiB
llama_memory_recurrent: size =    1.00 MiB (     1 cells,   2 layers,  1 seqs  1 rs_seq), R
sched_reserve:      CUDA0 compute buffer size =   300.00 MiB
sched_reserve:      CUDA0 compute buffer size =   304.00 MiB
"""


def test_the_log_is_read() -> None:
    buffers = parse_buffers(LOG)
    assert Buffer("CUDA0", "model", round(512.25 * MIB)) in buffers.buffers
    assert buffers.total("KV") == 12 * MIB
    assert buffers.total("compute") == 304 * MIB  # reserved anew, not once more
    assert buffers.caches == (Cache(10 * MIB, 512), Cache(2 * MIB, 256), Cache(MIB, 1))


def test_a_window_and_a_state_stop_growing() -> None:
    cache = Cache(1000, 100)
    assert [cache.read_bytes(n) for n in (1, 50.5, 100, 5000)] == [10, 505, 1000, 1000]


def test_memory_of_a_known_model(tiny: Model) -> None:
    """Keys and values of 9 layers in 16 bits, for a context padded to 256 cells."""
    memory = isolated(measure_memory, TINY, Case(8, 0))
    n_kv, n_head = (tiny.metadata[f"llama.{k}"].decode() for k in KEYS)
    embedding = tiny.metadata["llama.embedding_length"].decode()
    kv_bytes = 9 * 256 * 2 * 2 * n_kv * (embedding // n_head)
    assert abs(memory.cache_bytes - kv_bytes) <= ROUNDING
    assert abs(memory.model_bytes - 7_621_632) < 64 * 1024
    assert 0 < memory.compute_bytes < 64 * MIB
    assert memory.start_rss_bytes < memory.peak_rss_bytes < 1 << 30
    assert memory.peak_rss_bytes - memory.start_rss_bytes > 1_000_000
    assert encode_fields(memory)["n_ctx"] == 8


KEYS = ("attention.head_count_kv", "attention.head_count")


def test_the_process_has_memory() -> None:
    assert 10 * MIB < peak_rss_bytes() < 1 << 42
