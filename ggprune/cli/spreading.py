"""The options of commands whose work others can do: who they are, and what they may take."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from ggprune.cli.progress import TerminalProgress
from ggprune.cluster.address import TLSFiles
from ggprune.errors import UsageError
from ggprune.files.amounts import parse_number
from ggprune.runtime.compute import Compute

if TYPE_CHECKING:
    from ggprune.cluster.members import Workforce

_TIME = re.compile(r"(\d{1,6})\s*(s|m|h|)")
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600}
AUTO = "auto"

# fmt: off
GpusPerWorker = Annotated[int, Option(
    "--gpus-per-worker", min=1, metavar="G", help="GPUs of each worker.")]
Keep = Annotated[str | None, Option(
    "--keep", metavar="SIZE", show_default="a quarter of the free memory",
    help="Memory for chunks that are asked for again; of each worker.")]
Contexts = Annotated[int, Option(
    "--contexts", min=1, max=64, metavar="N",
    help="Contexts of the one loaded model in each worker, so that its GPUs do not wait for one "
    "another.")]
Wait = Annotated[str, Option(
    "--wait", metavar="TIME", help="For the first worker, or the scheduler: 90s, 10m, 1h.")]
# fmt: on


@dataclass(frozen=True, kw_only=True)
class TLS:
    """Of mutual TLS with a scheduler."""

    # fmt: off
    tls_ca_file: Annotated[Path | None, Option(
        "--tls-ca-file", help="Certificate that signed the others, PEM.")] = None
    tls_cert: Annotated[Path | None, Option("--tls-cert", help="Our certificate, PEM.")] = None
    tls_key: Annotated[Path | None, Option("--tls-key", help="Our key, PEM.")] = None
    # fmt: on

    def files(self) -> TLSFiles | None:
        """Raises UsageError if some are given and some are not."""
        given = {"--tls-ca-file": self.tls_ca_file, "--tls-cert": self.tls_cert,
                 "--tls-key": self.tls_key}  # fmt: skip
        missing = [option for option, path in given.items() if path is None]
        if len(missing) == len(given):
            return None
        if missing:
            raise UsageError(f"TLS needs all three of {', '.join(given)}: {missing[0]} is missing")
        assert self.tls_ca_file is not None
        assert self.tls_cert is not None
        assert self.tls_key is not None
        return TLSFiles(ca=self.tls_ca_file, cert=self.tls_cert, key=self.tls_key)


@dataclass(frozen=True, kw_only=True)
class Spreading:
    """Whoever does the work, where it is not this process alone."""

    # fmt: off
    workers: Annotated[str | None, Option(
        "--workers", metavar="N|auto",
        help="Measure in N processes of this machine, each with GPUs of its own; auto: as many as "
        "there are GPUs. The numbers stay the same. (pip install 'ggprune[scale]')")] = None
    gpus_per_worker: GpusPerWorker = 1
    contexts: Contexts = 1
    scheduler: Annotated[str | None, Option(
        "--scheduler", metavar="ADDRESS|FILE",
        help="Measure on the machines where ggprune worker has joined this scheduler of Dask's: "
        "tcp://..., tls://..., or its --scheduler-file.")] = None
    tls: TLS
    wait: Wait = "10m"
    mixed: Annotated[bool, Option(
        "--mixed",
        help="Also let in workers that compute other bits; a chunk stays with one kind.")] = False
    keep: Keep = None
    # fmt: on

    @property
    def is_spread(self) -> bool:
        return self.workers is not None or self.scheduler is not None

    @property
    def keep_bytes(self) -> int | None:
        return size_of(self.keep, "--keep")

    @contextmanager
    def workforce(self, compute: Compute) -> Iterator[Workforce | None]:
        """For the `with` block; None where this process does it all.

        Raises UsageError for what does not go together.
        """
        if self.is_spread and compute.rpc:
            raise UsageError(
                "--rpc: a server serves one client, so it is given to a ggprune worker of its own"
            )
        n_worker = self._n_worker()
        tls, wait_s = self.tls.files(), seconds_of(self.wait, "--wait")
        if not self.is_spread:
            given = {
                "--mixed": self.mixed, "--contexts": self.contexts > 1,
                "--gpus-per-worker": self.gpus_per_worker > 1, "--tls-ca-file": tls,
            }  # fmt: skip
            option = next((name for name, value in given.items() if value), None)
            if option is not None:
                raise UsageError(f"{option} is about workers: add --workers or --scheduler")
            yield None
            return
        from ggprune.pipeline.spread import CrewRules, Place, Spread, workforce  # and all of it

        place = Place(threads=compute.n_threads, contexts=self.contexts, keep_bytes=self.keep_bytes)
        spread = Spread(
            workers=n_worker, auto=self.workers == AUTO, gpus_per_worker=self.gpus_per_worker,
            place=place, scheduler=self.scheduler, tls=tls,
            rules=CrewRules(mixed=self.mixed, wait_s=wait_s),
        )  # fmt: skip
        with workforce(spread, TerminalProgress(at_once=True)) as force:
            yield force

    def _n_worker(self) -> int | None:
        if self.workers in (None, AUTO):
            return None
        try:
            n_worker = int(self.workers or "")
        except ValueError:
            n_worker = 0
        if not 1 <= n_worker <= MAX_WORKERS:
            raise UsageError(f"--workers {self.workers}: write a number from 1 on, or {AUTO}")
        return n_worker


MAX_WORKERS = 1024


def seconds_of(text: str, option: str) -> float:
    """`90s`, `10m`, `1h`, or a number of seconds. Raises UsageError that names the option."""
    match = _TIME.fullmatch(text.strip())
    if match is None or int(match[1]) == 0:
        raise UsageError(f"{option} {text}: write a time like 90s, 10m or 1h")
    return float(int(match[1]) * _SECONDS[match[2]])


def size_of(text: str | None, option: str) -> int | None:
    """`8G`. Raises UsageError that names the option."""
    if text is None:
        return None
    return parse_number(text, option, of_bytes=True)
