"""Pruning against copying: `ggprune prune --no-verify` beside `cp` followed by `sync`.

Both are durable, both read a source that is in the page cache, and they take turns in one run. The
model is synthetic: 28 layers of random finite numbers. llama-quantize COPY joins if it is on PATH.
ggprune's time includes starting Python, reading the output back and comparing every byte.
"""

from __future__ import annotations

import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from gguf import GGUFWriter

N_LAYER, N_EMBD, N_FF = 28, 2048, 8192
DROP = "9,14"
N_ROUND = 10


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path.cwd()
    with tempfile.TemporaryDirectory(dir=folder, prefix="prune-copy-") as name:
        measure(Path(name))


def measure(folder: Path) -> None:
    source, same_size, out = (folder / n for n in ("in.gguf", "same-size.gguf", "out.gguf"))
    make_model(source)
    run_ggprune(source, same_size)  # cp copies exactly the bytes that ggprune writes
    jobs: dict[str, Callable[[], None]] = {
        "cp + sync": lambda: run_cp(same_size, out),
        "ggprune prune": lambda: run_ggprune(source, out),
    }
    if shutil.which("llama-quantize"):
        jobs["llama-quantize COPY"] = lambda: run_llama_quantize(source, out)
    times: dict[str, list[float]] = {job: [] for job in jobs}
    for i in range(N_ROUND):
        order = list(jobs.items())
        for job, run in order if i % 2 else reversed(order):  # whoever is first has no edge
            out.unlink(missing_ok=True)
            warm(source, same_size)
            os.sync()
            start = time.perf_counter()
            run()
            times[job].append(time.perf_counter() - start)
    report(times, same_size.stat().st_size)
    out.unlink()
    print(f"\npeak memory of ggprune: {peak_memory_mib(lambda: run_ggprune(source, out)):.0f} MiB")


def peak_memory_mib(run: Callable[[], None]) -> float:
    """Largest process that `run` starts, counted in a child that has started no other."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        run()
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        os.write(writer, str(peak).encode())
        os._exit(0)
    os.waitpid(child, 0)
    return int(os.read(reader, 64)) / 1024


def report(times: dict[str, list[float]], size_bytes: int) -> None:
    print(f"{size_bytes / 1e9:.2f} GB written, {N_ROUND} rounds, taking turns\n")
    print("| job                 | median s | min s | ratio of medians |")
    print("| ------------------- | -------: | ----: | ---------------: |")
    base = statistics.median(times["cp + sync"])
    for job, values in times.items():
        middle = statistics.median(values)
        print(f"| {job:19} | {middle:8.2f} | {min(values):5.2f} | {middle / base:16.2f} |")


def make_model(path: Path) -> None:
    """OutputFiles by a child process, so that its memory does not count."""
    child = os.fork()
    if child == 0:
        _write_model(path)
        os._exit(0)
    os.waitpid(child, 0)


def _write_model(path: Path) -> None:
    rng = np.random.default_rng(0)
    writer = GGUFWriter(path, "llama", use_temp_file=False)
    writer.add_block_count(N_LAYER)
    writer.add_context_length(512)
    writer.add_embedding_length(N_EMBD)
    writer.add_feed_forward_length(N_FF)
    writer.add_head_count(N_EMBD // 128)
    writer.add_layer_norm_rms_eps(1e-5)
    rows = {"attn_q": N_EMBD, "attn_output": N_EMBD, "ffn_gate": N_FF, "ffn_up": N_FF}
    block = rng.integers(0, 0x7C00, (N_FF, N_EMBD), dtype=np.int16)
    for layer in range(N_LAYER):
        for name, n_row in rows.items():
            data = ((block[:n_row] + np.int16(layer)) % np.int16(0x7C00)).view(np.float16)
            writer.add_tensor(f"blk.{layer}.{name}.weight", data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def warm(*paths: Path) -> None:
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while file.read(1 << 24):
                pass


def run_cp(source: Path, out: Path) -> None:
    subprocess.run(["cp", source, out], check=True)
    subprocess.run(["sync", out], check=True)


def run_ggprune(source: Path, out: Path) -> None:
    command = [sys.executable, "-m", "ggprune", "--prune-layers", DROP, str(source), str(out)]
    subprocess.run([*command, "--no-verify"], check=True, stdout=subprocess.DEVNULL)


def run_llama_quantize(source: Path, out: Path) -> None:
    subprocess.run(
        ["llama-quantize", "--prune-layers", DROP, source, out, "COPY"],
        check=True,
        capture_output=True,
    )
    subprocess.run(["sync", out], check=True)


if __name__ == "__main__":
    main()
