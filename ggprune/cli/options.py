"""Options that several commands share, named as llama.cpp names them. They load nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from ggprune.cli.completion import one_of
from ggprune.errors import UsageError
from ggprune.files.reading import TextErrors
from ggprune.quantize.options import FILE_TYPES, MADE_TYPES

file_types = one_of(FILE_TYPES, any_case=True)
tensor_types = one_of(MADE_TYPES, any_case=True)

# fmt: off
ModelPath = Annotated[Path, Argument(
    metavar="IN.gguf", help="The model; any shard of a split one.")]
OutPath = Annotated[Path, Argument(metavar="OUT.gguf", help="The file to write.")]
TextFile = Annotated[Path | None, Option(
    "-f", "--file", help="UTF-8 text to measure on; - is standard input.")]
Errors = Annotated[TextErrors, Option(
    "--errors", help="What to do about bytes of a text that are not UTF-8.")]
ContextSize = Annotated[int, Option(
    "-c", "--ctx-size", min=8, max=1 << 24, help="Tokens per chunk, BOS included.")]
Chunks = Annotated[int | None, Option(
    "--chunks", min=1, show_default="all", help="Measure on the first N chunks only.")]
Confidence = Annotated[float, Option(
    min=0.5, max=0.9999, help="Of all decisions together: how sure a layer leaves the race.")]
UseCache = Annotated[bool, Option(
    "--cache/--no-cache",
    help="Keep finished measurements in the user's cache folder: a run that was ended goes on.")]
TypeName = Annotated[str | None, Option(
    "--type", metavar="TYPE", autocompletion=file_types,
    help="Requantize as well: Q4_K_M, Q8_0, ...")]
DropMtp = Annotated[bool, Option(
    "--drop-mtp", help="Also drop all multi-token-prediction (MTP) blocks behind the layers.")]
DropExperts = Annotated[str | None, Option(
    "--drop-experts", metavar="N|P%",
    help="Drop N experts of every layer, or a share (25%) that leaves a multiple of 4.")]
KeepSplit = Annotated[bool, Option("--keep-split", help="Write shards where the input has shards.")]
Threads = Annotated[int | None, Option(
    "-t", "--threads", min=1, max=512, show_default="physical cores", help="CPU threads.")]
RpcServers = Annotated[str | None, Option(
    "--rpc", metavar="HOST:PORT,...", help="Also compute on these servers of llama.cpp's RPC.")]
Force = Annotated[bool, Option("--force", help="Replace the output if it exists.")]
# fmt: on


@dataclass(frozen=True, kw_only=True)
class Showing:
    """How a result is shown."""

    # fmt: off
    wide: Annotated[bool, Option(
        "--wide", help="Show all columns of tables, however narrow the terminal is.")] = False
    as_json: Annotated[bool, Option(
        "--json", help="Print one JSON document to stdout.")] = False
    # fmt: on


@dataclass(frozen=True, kw_only=True)
class Writing:
    """Whether to write a model at all, what is proved of it, and how it is told."""

    # fmt: off
    dry_run: Annotated[bool, Option(
        "--dry-run", help="Print the exact size; write nothing.")] = False
    verify: Annotated[bool, Option(
        "--verify/--no-verify",
        help="After checking every byte, also load the result in llama.cpp and decode with it.",
    )] = True
    # fmt: on
    force: Force = False
    showing: Showing


def rpc_servers(text: str | None) -> tuple[str, ...]:
    """`host:port,...`. Raises UsageError for anything else."""
    servers = tuple(each.strip() for each in (text or "").split(",") if each.strip())
    for server in servers:
        host, _, port = server.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 1 << 16:
            raise UsageError(f"--rpc {server}: write host:port")
    return servers
