"""Benchmarks in llama-bench's own formats: the same columns, names and types, row for row.

So everything that reads llama-bench's output reads ours. Follows get_fields, get_values and the
printers of tools/llama-bench/llama-bench.cpp. Nothing here prints.
"""

from __future__ import annotations

from collections.abc import Callable

from ggprune.bench.speed import Benchmark, Speed
from ggprune.errors import UsageError
from ggprune.files.documents import UTF_8, encode_fields, json_text
from ggprune.files.printable import printable
from ggprune.report.units import count, size, speed_cell

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

# The Markdown table: field, its name there, width (negative: left-aligned).
COLUMNS = (
    ("model", "model", -30), ("size", "size", 10), ("params", "params", 10),
    ("backends", "backend", -10), ("n_gpu_layers", "ngl", 3), ("n_threads", "threads", 7),
    ("n_batch", "n_batch", 7), ("n_ubatch", "n_ubatch", 8), ("type_k", "type_k", 6),
    ("type_v", "type_v", 6), ("flash_attn", "fa", 3), ("test", "test", 15), ("t/s", "t/s", 20),
)  # fmt: skip
# What these columns are left out for, if it is in all rows.
USUAL = {
    "n_batch": "2048", "n_ubatch": "512", "type_k": "f16", "type_v": "f16", "flash_attn": "-1",
}  # fmt: skip
NO_GPU = ("CPU", "BLAS", "ZenDNN")


def render_rows(result: Benchmark, format_name: str, encoding: str = UTF_8) -> str:
    """`csv`, `json`, `jsonl`, `md` or `sql`, for an encoding. Raises UsageError for another format.

    JSON has names of files as they are; elsewhere nothing in them steers a terminal.
    """
    if format_name in DOCUMENTS:
        return DOCUMENTS[format_name](_documents(result), encoding)
    if format_name not in TEXTS:
        raise UsageError(f"-o {format_name}: one of {', '.join(sorted([*TEXTS, *DOCUMENTS]))}")
    return TEXTS[format_name](result)


def _rows(result: Benchmark) -> list[tuple[Row, Speed]]:
    """One row for each model and test, all values as text, in llama-bench's order of columns."""
    hardware, devices = result.hardware, result.hardware.devices
    fixed = {
        **FIXED, "build_commit": hardware.build_commit, "backends": hardware.backends,
        "cpu_info": ", ".join(d.description for d in devices if d.kind in ("cpu", "accel")),
        "gpu_info": ", ".join(d.description for d in devices if d.is_gpu),
    }  # fmt: skip
    rows = []
    for model in result.models:
        for speed in model.speeds:
            values = {
                **fixed, **encode_fields(speed.case),
                "model_filename": model.path, "model_type": model.description,
                "model_size": model.size_bytes, "model_n_params": model.n_param,
                "test_time": speed.test_time, "avg_ns": speed.mean_ns, "stddev_ns": speed.stdev_ns,
                "avg_ts": f"{speed.mean:.6f}", "stddev_ts": f"{speed.stdev:.6f}",
            }  # fmt: skip
            rows.append(({name: str(values[name]) for name in TYPES}, speed))
    return rows


def _csv(result: Benchmark) -> str:
    lines = [",".join(TYPES)]
    for row, _ in _rows(result):
        lines.append(",".join(_quoted(row, '"')))
    return "\n".join(lines) + "\n"


def _sql(result: Benchmark) -> str:
    columns = [f"  {name} {kind.replace('BOOLEAN', 'INTEGER')}" for name, kind in TYPES.items()]
    lines = ["CREATE TABLE IF NOT EXISTS llama_bench (", ",\n".join(columns), ");", ""]
    for row, _ in _rows(result):
        values = ", ".join(_quoted(row, "'"))
        lines.append(f"INSERT INTO llama_bench ({', '.join(TYPES)}) VALUES ({values});")
    return "\n".join(lines) + "\n"


def _quoted(row: Row, quote: str) -> list[str]:
    values = (printable(value, None) for value in row.values())
    return [quote + value.replace(quote, 2 * quote) + quote for value in values]


def _documents(result: Benchmark) -> list[dict[str, object]]:
    return [
        {
            **{name: CONVERT[TYPES[name]](value) for name, value in row.items()},
            "samples_ns": list(speed.samples_ns),
            "samples_ts": [float(f"{value:.6g}") for value in speed.samples_tok_per_s],
        }
        for row, speed in _rows(result)
    ]


def _markdown(result: Benchmark) -> str:
    rows = _rows(result)
    columns = _columns(result, [row for row, _ in rows])
    lines = [
        _line([(name, width) for _, name, width in columns]),
        "|" + "".join(f" {'-' * (abs(w) - 1)}{':' if w > 0 else '-'} |" for *_, w in columns),
    ]
    for row, speed in rows:
        n_byte = int(row["model_size"])
        shown = {
            **row, "model": row["model_type"], "params": count(int(row["model_n_params"])),
            # never in KiB
            "size": size(n_byte) if n_byte >= 2**20 else f"{n_byte / 2**20:.2f} MiB",
            "test": speed.case.name, "t/s": speed_cell(speed),
        }  # fmt: skip
        lines.append(_line([(shown[field], width) for field, _, width in columns]))
    commit = result.hardware.build_commit
    return "\n".join(lines) + f"\n\nbuild: {commit} ({FIXED['build_number']})\n"


def _line(cells: list[tuple[str, int]]) -> str:
    return "|" + "".join(f" {text:{'>' if w > 0 else '<'}{abs(w)}} |" for text, w in cells)


def _columns(result: Benchmark, rows: list[Row]) -> list[tuple[str, str, int]]:
    """Those of COLUMNS that llama-bench would show."""
    on_cpu = any(name in result.hardware.backends for name in NO_GPU)
    threads = str(result.hardware.n_threads)
    is_shown = {
        "n_gpu_layers": not on_cpu,
        "n_threads": on_cpu or any(row["n_threads"] != threads for row in rows),
        **{field: any(row[field] != usual for row in rows) for field, usual in USUAL.items()},
    }
    return [column for column in COLUMNS if is_shown.get(column[0], True)]


TEXTS: dict[str, Callable[[Benchmark], str]] = {"csv": _csv, "md": _markdown, "sql": _sql}
DOCUMENTS: dict[str, Callable[[list[dict[str, object]], str], str]] = {
    "json": lambda documents, encoding: json_text(documents, encoding, indent=2) + "\n",
    "jsonl": lambda documents, encoding: "".join(
        json_text(document, encoding) + "\n" for document in documents
    ),
}
