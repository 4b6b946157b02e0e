"""Takes out of what ggprune prints what differs from run to run: times, speeds, memory in use.

Only numbers go, and the words that depend on them; how they are written stays: 12.34 becomes #.##.
Everything else, blanks and the order of keys too, is left as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable

NUMBER = re.compile(r"\d+(?:\.(\d+))?(?:e[-+]\d+)?")
JSON_NUMBER = r"-?\d+(?:\.\d+)?(?:e[-+]\d+)?"

# Columns of tables, by their header.
COLUMNS = re.compile(
    r"time s"  # of a race
    r"|(?:.* )?t/s|(?:tg speed-up|times the first) \(95 % interval\)|reached|measured|peak RSS"
    r"|latency s|tokens/s|ms/token"
)
# Fields of JSON documents.
FIELDS = (
    "decode_s", "callback_s", "statistics_s", "time_s",  # effort of a ranking, races
    "avg_ns", "stddev_ns", "avg_ts", "stddev_ts", "samples_ns", "samples_ts",  # tests of speed
    "latency_s", "stddev_s", "tok_per_s", "token_s", "samples_s",
    "ratio", "predicted_ts", "bandwidth_bytes_per_s",
    "free_bytes", "start_rss_bytes", "peak_rss_bytes",
)  # fmt: skip

RATIOS = "(?:ratio|speedup|measured_speedup)"
RATIO = r'\s*"value": \S+,\s*"low": \S+,\s*"high": \S+,\s*"n": \d+,\s*"confidence": \S+\s*'

Replace = str | Callable[[re.Match[str]], str]


def without_digits(found: re.Match[str]) -> str:
    """All numbers of a match, written with as many decimals."""
    return NUMBER.sub(lambda n: "#" + ("." + "#" * len(n[1]) if n[1] else ""), found[0])


def as_kind(found: re.Match[str]) -> str:
    """Numbers of JSON: is it whole or not? How many repetitions there were depends on them."""
    key, value = found[1], found[2]
    value = re.sub(JSON_NUMBER, lambda n: "#.#" if re.search("[.e]", n[0]) else "#", value)
    return key + re.sub(r"(#(?:\.#)?)(?:,\s*\1)+", r"\1, ...", value)


RULES: tuple[tuple[str, Replace], ...] = (
    (rf'("(?:{"|".join(FIELDS)})": )({JSON_NUMBER}|\[[^]"]*\])', as_kind),
    # the ratio of two speeds, with its interval
    (rf'("{RATIOS}": )({{{RATIO}}})', as_kind),
    (r'"test_time": "\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"', without_digits),
    (r'"short": (?:true|false)', '"short": #'),
    # the last columns of llama-bench's CSV and SQL
    (r"""(['"])\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\1(?:, ?\1[\d.]+\1){4}(?=\n|\);)""", without_digits),
    (
        r"(?:Pruning generates at|No difference in the speed of generating was measured:) [^;\n]*",
        "Pruning generates at #",
    ),
    # how far a job is, and what it would take
    (r"(?m)^ggprune: [\w ,]+: .*(?:% .*|done )after .*\n", ""),
    (
        r"(?m)(?:takes|about) [\d.e-]+(?: h| min| s)(?: \d+ (?:min|s))?(?= at most|, so|$)",
        "takes # s",
    ),
    (r"Memory is read at [\d.]+ GB/s at best\.", without_digits),
    (r"\n! less than 85 % of the predicted speed-up(?=\n)", ""),
    (r"(?<=: )(?:reached|not reached|not decided), .* measured", "#reached, #x measured"),
    (r"[\d.]+ [KMG]iB free", without_digits),
    # matplotlib's SVG: when it was drawn, and names that it makes up
    (r"<dc:date>[^<]*</dc:date>", "<dc:date>#</dc:date>"),
    (r'([#"](?:[mp]|image))[0-9a-f]{10}(?=[")])', r"\1#"),
    # what lm-eval says: of a progress bar only its last state, and when a line was written
    (r"(?:\r[^\r\n]*\])*(\r[^\r\n]*) \[[^\r\n]*\](?=\n)", r"\1 [#]"),
    (r"(?m)^\d{4}-\d\d-\d\d:\d\d:\d\d:\d\d (?=[A-Z]+ )", "# "),
)


def normal(text: str) -> str:
    for pattern, replacement in RULES:
        text = re.sub(pattern, replacement, text)
    return "\n".join(normal_tables(text.split("\n")))


def normal_tables(lines: list[str]) -> list[str]:
    """Varying columns of Markdown tables lose their digits, and the blanks that depend on them."""
    found: list[str] = []
    columns: list[int] = []
    for i, line in enumerate(lines):
        if not line.startswith("|"):
            columns = []
        elif i + 1 < len(lines) and re.fullmatch(r"\|(?: -+:? \|)+", lines[i + 1]):
            cells = [cell.strip() for cell in line.split("|")]
            columns = [n for n, cell in enumerate(cells) if COLUMNS.fullmatch(cell)]
        found.append(normal_row(line, columns) if columns else line)
    return found


def normal_row(line: str, columns: list[int]) -> str:
    cells = line.split("|")
    for n in columns:
        cell = cells[n].strip().removesuffix(" !")
        if COLUMNS.fullmatch(cell):
            cells[n] = f" {cell} "
        else:
            cells[n] = " " + re.sub("-{2,}", "--", NUMBER.sub(without_digits, cell)) + " "
    return "|".join(cells)
