"""Benchmarks in llama-bench's own formats: the same columns, names and types, row for row.

So everything that reads llama-bench's output reads ours. Follows get_fields, get_values and the
printers of tools/llama-bench/llama-bench.cpp. Nothing here prints.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from ggprune.bench import Benchmark, ModelSpeed, Speed
from ggprune.errors import UsageError
from ggprune.files.documents import encode_fields
from ggprune.report.units import count

Row = dict[str, str]

TYPES = {
    "build_commit": "TEXT", "build_number": "INTEGER", "cpu_info": "TEXT", "gpu_info": "TEXT",
    "backends": "TEXT", "model_filename": "TEXT", "model_type": "TEXT", "model_size": "INTEGER",
    "model_n_params": "INTEGER", "n_batch": "INTEGER", "n_ubatch": "INTEGER",
    "n_threads": "INTEGER", "cpu_mask": "TEXT", "cpu_strict": "BOOLEAN", "poll": "INTEGER",
    "type_k": "TEXT", "type_v": "TEXT", "n_gpu_layers": "INTEGER", "n_cpu_moe": "INTEGER",
    "split_mode": "TEXT", "main_gpu": "INTEGER", "no_kv_offload": "BOOLEAN",
    "flash_attn": "INTEGER", "devices": "TEXT", "tensor_split": "TEXT",
    "tensor_buft_overrides": "TEXT", "load_mode": "TEXT", "lazy_mode": "TEXT",
    "embeddings": "BOOLEAN", "no_op_offload": "INTEGER", "no_host": "BOOLEAN",
    "repack": "BOOLEAN", "fit_target": "INTEGER", "fit_min_ctx": "INTEGER",
    "n_prompt": "INTEGER", "n_gen": "INTEGER", "n_depth": "INTEGER", "test_time": "TEXT",
    "avg_ns": "INTEGER", "stddev_ns": "INTEGER", "avg_ts": "REAL", "stddev_ts": "REAL",
}  # fmt: skip
CONVERT: dict[str, Callable[[str], object]] = {
    "TEXT": str, "INTEGER": int, "REAL": float, "BOOLEAN": lambda text: text != "0",
}  # fmt: skip

# What llama-bench has options for and ggprune leaves at llama.cpp's defaults. The build number is
# not part of the library.
FIXED = {
    "build_number": "0", "cpu_mask": "0x0", "cpu_strict": "0", "poll": "50", "n_cpu_moe": "0",
    "split_mode": "layer", "main_gpu": "0", "no_kv_offload": "0", "devices": "auto",
    "tensor_split": "0.00", "tensor_buft_overrides": "none", "load_mode": "auto",
    "lazy_mode": "auto", "embeddings": "0", "no_op_offload": "0", "no_host": "0", "repack": "1",
    "fit_target": "0", "fit_min_ctx": "0",
}  # fmt: skip

# Columns that the Markdown table has only where there is something to see: field, its name in the
# table, width (negative: left-aligned), default.
OPTIONAL = (
    ("n_batch", "n_batch", 7, "2048"),
    ("n_ubatch", "n_ubatch", 8, "512"),
    ("type_k", "type_k", 6, "f16"),
    ("type_v", "type_v", 6, "f16"),
    ("flash_attn", "fa", 3, "-1"),
)
NO_GPU = ("CPU", "BLAS", "ZenDNN")


def render_rows(result: Benchmark, format_name: str) -> str:
    """`csv`, `json`, `jsonl`, `md` or `sql`. Raises UsageError for another format."""
    writer = FORMATS.get(format_name)
    if writer is None:
        raise UsageError(f"-o {format_name}: one of {', '.join(FORMATS)}")
    return writer(result)


def rows_of(result: Benchmark) -> list[tuple[Row, Speed]]:
    """One row for each model and test, all values as text, in llama-bench's order of columns."""
    fixed = {**FIXED, **_machine(result)}
    rows = []
    for model in result.models:
        for speed in model.speeds:
            values = {**fixed, **_model(model), **_test(speed)}
            rows.append(({name: values[name] for name in TYPES}, speed))
    return rows


def _machine(result: Benchmark) -> Row:
    devices = result.hardware.devices
    return {
        "build_commit": result.hardware.build_commit,
        "backends": result.hardware.backends,
        "cpu_info": ", ".join(d.description for d in devices if d.kind in ("cpu", "accel")),
        "gpu_info": ", ".join(d.description for d in devices if d.is_gpu),
    }


def _model(model: ModelSpeed) -> Row:
    return {
        "model_filename": model.path,
        "model_type": model.description,
        "model_size": str(model.size_bytes),
        "model_n_params": str(model.n_param),
    }


def _test(speed: Speed) -> Row:
    return {
        **{name: str(value) for name, value in encode_fields(speed.case).items()},
        "test_time": speed.test_time,
        "avg_ns": str(speed.mean_ns),
        "stddev_ns": str(speed.stdev_ns),
        "avg_ts": f"{speed.mean:.6f}",
        "stddev_ts": f"{speed.stdev:.6f}",
    }


def render_csv(result: Benchmark) -> str:
    lines = [",".join(TYPES)]
    for row, _ in rows_of(result):
        lines.append(",".join('"' + value.replace('"', '""') + '"' for value in row.values()))
    return "\n".join(lines) + "\n"


def render_sql(result: Benchmark) -> str:
    columns = [f"  {name} {_sql_type(kind)}" for name, kind in TYPES.items()]
    lines = ["CREATE TABLE IF NOT EXISTS llama_bench (", ",\n".join(columns), ");", ""]
    for row, _ in rows_of(result):
        values = ", ".join("'" + value.replace("'", "''") + "'" for value in row.values())
        lines.append(f"INSERT INTO llama_bench ({', '.join(TYPES)}) VALUES ({values});")
    return "\n".join(lines) + "\n"


def _sql_type(kind: str) -> str:
    return "INTEGER" if kind == "BOOLEAN" else kind


def render_json(result: Benchmark) -> str:
    return json.dumps(_documents(result), indent=2, ensure_ascii=False) + "\n"


def render_jsonl(result: Benchmark) -> str:
    return "".join(json.dumps(d, ensure_ascii=False) + "\n" for d in _documents(result))


def _documents(result: Benchmark) -> list[dict[str, object]]:
    return [
        {
            **{name: _typed(name, value) for name, value in row.items()},
            "samples_ns": list(speed.samples_ns),
            "samples_ts": [float(f"{value:.6g}") for value in speed.samples_tok_per_s],
        }
        for row, speed in rows_of(result)
    ]


def _typed(name: str, value: str) -> object:
    return CONVERT[TYPES[name]](value)


def render_markdown(result: Benchmark) -> str:
    rows = rows_of(result)
    columns = _columns(result, [row for row, _ in rows])
    lines = [
        _line([(name, width) for _, name, width in columns]),
        "|" + "".join(f" {'-' * (abs(w) - 1)}{':' if w > 0 else '-'} |" for *_, w in columns),
    ]
    for row, speed in rows:
        shown = {**row, **_shown(row, speed)}
        lines.append(_line([(shown[field], width) for field, _, width in columns]))
    commit = result.hardware.build_commit
    return "\n".join(lines) + f"\n\nbuild: {commit} ({FIXED['build_number']})\n"


def _line(cells: list[tuple[str, int]]) -> str:
    padded = (text.rjust(width) if width > 0 else text.ljust(-width) for text, width in cells)
    return "|" + "".join(f" {text} |" for text in padded)


def _columns(result: Benchmark, rows: list[Row]) -> list[tuple[str, str, int]]:
    """Field, name in the table and width of the columns that llama-bench would show."""
    backends, threads = result.hardware.backends, str(result.hardware.n_threads)
    on_cpu = any(name in backends for name in NO_GPU)
    columns = [("model", "model", -30), ("size", "size", 10), ("params", "params", 10)]
    columns.append(("backends", "backend", -10))
    if not on_cpu:
        columns.append(("n_gpu_layers", "ngl", 3))
    if on_cpu or any(row["n_threads"] != threads for row in rows):
        columns.append(("n_threads", "threads", 7))
    columns += [
        (field, name, width)
        for field, name, width, default in OPTIONAL
        if any(row[field] != default for row in rows)
    ]
    return [*columns, ("test", "test", 15), ("t/s", "t/s", 20)]


def _shown(row: Row, speed: Speed) -> Row:
    return {
        "model": row["model_type"],
        "size": _size(int(row["model_size"])),
        "params": count(int(row["model_n_params"])),
        "test": speed.case.name,
        "t/s": f"{speed.mean:.2f} ± {speed.stdev:.2f}",
    }


def _size(n_byte: int) -> str:
    """Never in KiB."""
    return f"{n_byte / 2**20:.2f} MiB" if n_byte < 2**30 else f"{n_byte / 2**30:.2f} GiB"


FORMATS: dict[str, Callable[[Benchmark], str]] = {
    "csv": render_csv,
    "json": render_json,
    "jsonl": render_jsonl,
    "md": render_markdown,
    "sql": render_sql,
}
