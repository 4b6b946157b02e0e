"""llama-bench's formats. The lists are what the tool of llama-cpp-python 0.3.36 prints."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
from dataclasses import replace
from typing import Any

import pytest

from ggprune.bench.cases import Case
from ggprune.bench.speed import Benchmark, Machine, ModelSpeed, Speed, compared
from ggprune.errors import UsageError
from ggprune.report.llamabench import render_rows
from ggprune.runtime.compute import Compute
from ggprune.runtime.devices import Device

COLUMNS = (
    "build_commit,build_number,cpu_info,gpu_info,backends,model_filename,model_type,model_size,"
    "model_n_params,n_batch,n_ubatch,n_threads,cpu_mask,cpu_strict,poll,type_k,type_v,"
    "n_gpu_layers,n_cpu_moe,split_mode,main_gpu,no_kv_offload,flash_attn,devices,tensor_split,"
    "tensor_buft_overrides,load_mode,lazy_mode,embeddings,no_op_offload,no_host,repack,fit_target,"
    "fit_min_ctx,n_prompt,n_gen,n_depth,test_time,avg_ns,stddev_ns,avg_ts,stddev_ts"
)
# llama-bench -m tiny.gguf -p 8 -n 0 -r 2 -t 2 -o csv
LINE = (
    '"0c1e570","1","AMD EPYC","","CPU","fixtures/tiny.gguf","llama ?B F16","7621632","3805952",'
    '"2048","512","2","0x0","0","50","f16","f16","-1","0","layer","0","0","-1","auto","0.00",'
    '"none","auto","auto","0","0","0","1","0","0","8","0","0","2026-11-23T04:21:42Z",'
    '"952171","143459","8498.308272","1280.401135"'
)
# ... -o md
TABLE = (
    "| model                          |       size |     params | backend    | threads |"
    "            test |                  t/s |\n"
    "| ------------------------------ | ---------: | ---------: | ---------- | ------: |"
    " --------------: | -------------------: |\n"
    "| llama ?B F16                   |   7.27 MiB |     3.81 M | CPU        |       2 |"
    "             pp8 |    8498.31 ± 1280.40 |\n"
)
# ... -o json
TYPED = {
    "cpu_strict": False, "no_kv_offload": False, "embeddings": False, "no_op_offload": 0,
    "no_host": False, "repack": True, "flash_attn": -1, "poll": 50, "avg_ns": 952171,
    "avg_ts": 8498.308272, "devices": "auto", "samples_ns": [1053612, 850730],
    "samples_ts": [7592.93, 9403.69],
}  # fmt: skip
CPU = Device(name="CPU", description="AMD EPYC", kind="cpu", total_bytes=1, free_bytes=1)


def made_up(*cases: Case, machine: Machine | None = None, path: str = "a.gguf") -> Benchmark:
    speeds = [
        Speed(case=case, samples_ns=(1_053_612, 850_730), test_time="2026-11-23T04:21:42Z")
        for case in cases
    ]
    model = ModelSpeed(
        path=path, description="llama ?B F16", size_bytes=7_621_632, n_param=3_805_952,
        tests=compared(speeds, None),
    )  # fmt: skip
    return Benchmark((model,), machine or Machine("CPU", (CPU,), 2, "0c1e570"), {})


ONE = made_up(Case(8, 0, 0, Compute(n_threads=2)), path="fixtures/tiny.gguf")


def test_csv_is_that_of_llama_bench() -> None:
    """Except the build number, which is not part of the library."""
    head, line = render_rows(ONE, "csv").splitlines()
    assert head == COLUMNS
    assert line == LINE.replace('"0c1e570","1"', '"0c1e570","0"')
    quoted = render_rows(made_up(Case(8, 0), path='a"b,c.gguf'), "csv")
    (row,) = csv.DictReader(io.StringIO(quoted))
    assert row["model_filename"] == 'a"b,c.gguf'


def test_markdown_is_that_of_llama_bench() -> None:
    assert render_rows(ONE, "md") == TABLE + "\nbuild: 0c1e570 (0)\n"


def test_markdown_shows_what_is_not_the_default() -> None:
    compute = Compute(
        n_batch=64, n_threads=1, n_gpu_layers=10, flash_attn=True, type_k="q8_0"
    )  # fmt: skip
    machine = Machine(
        "CUDA", (CPU, replace(CPU, name="CUDA0", description="H200", kind="gpu")), 2, "0c1e570"
    )
    for hardware, columns in (
        (None, "model size params backend threads n_batch type_k fa test t/s"),
        (machine, "model size params backend ngl threads n_batch type_k fa test t/s"),
    ):
        table = render_rows(made_up(Case(8, 2, 16, compute), machine=hardware), "md")
        assert [c.strip() for c in table.splitlines()[0].strip("|").split("|")] == columns.split()
        assert " pp8+tg2 @ d16 |" in table


@pytest.mark.parametrize("form", ["json", "jsonl"])
def test_json_has_llama_benchs_keys_and_types(form: str) -> None:
    result = made_up(Case(8, 0), Case(0, 2))
    text = render_rows(result, form)
    rows: list[dict[str, Any]]
    rows = json.loads(text) if form == "json" else [json.loads(x) for x in text.splitlines()]
    assert len(rows) == 2
    for row in rows:
        assert ",".join(row) == COLUMNS + ",samples_ns,samples_ts"
    assert {name: rows[0][name] for name in TYPED} == TYPED


def test_sql_is_a_table() -> None:
    with sqlite3.connect(":memory:") as database:
        database.executescript(render_rows(made_up(Case(8, 0), path="it's.gguf"), "sql"))
        cursor = database.execute("SELECT * FROM llama_bench")
        assert ",".join(column[0] for column in cursor.description) == COLUMNS
        (row,) = [dict(zip(COLUMNS.split(","), r, strict=True)) for r in cursor]
        kinds = {r[1]: r[2] for r in database.execute("PRAGMA table_info(llama_bench)")}
    assert (row["model_filename"], row["n_prompt"], row["avg_ts"]) == ("it's.gguf", 8, 8498.308272)
    assert (kinds["model_type"], kinds["repack"], kinds["avg_ts"]) == ("TEXT", "INTEGER", "REAL")


def test_another_format() -> None:
    with pytest.raises(UsageError, match="-o xml: one of csv, json, jsonl, md, sql"):
        render_rows(ONE, "xml")
