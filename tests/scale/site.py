"""A scheduler and workers on 127.0.0.1, as somebody would start them; ends whatever was started."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ggprune.cluster.address import TLSFiles
from ggprune.cluster.connect import remote_client
from ggprune.cluster.members import CrewRules, Workforce
from ggprune.files.documents import to_text
from ggprune.progress import Progress

SETTINGS = {
    "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "60s",
    "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1000",
}


def preloading(*names: str) -> dict[str, str]:
    """What has a worker load modules of this folder."""
    files = [str(Path(__file__).parent / f"{name}.py") for name in names]
    return {"DASK_DISTRIBUTED__WORKER__PRELOAD": repr(files)}


SLOW = preloading("slow")  # every task takes longer, so that something can happen meanwhile


class Listener(Progress):
    """Writes down what a user would be told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def told(self, what: str) -> list[str]:
        return [note for note in self.notes if what in note]


@dataclass
class Site:
    """What runs, and where it writes."""

    folder: Path
    tls: TLSFiles | None = None
    environ: dict[str, str] = field(default_factory=dict)
    scheduler: subprocess.Popen[bytes] | None = None
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    port: int = 0

    @property
    def address(self) -> str:
        return f"{'tls' if self.tls else 'tcp'}://127.0.0.1:{self.port}"

    @property
    def tls_options(self) -> list[str]:
        if self.tls is None:
            return []
        return ["--tls-ca-file", str(self.tls.ca), "--tls-cert", str(self.tls.cert),
                "--tls-key", str(self.tls.key)]  # fmt: skip

    def start_scheduler(self) -> None:
        self.port = self.port or free_port()
        host = "tls://127.0.0.1" if self.tls else "127.0.0.1"
        command = [sys.executable, "-m", "dask", "scheduler", "--host", host, "--port",
                   str(self.port), "--no-dashboard", *self.tls_options]  # fmt: skip
        self.scheduler = self._start(command, "scheduler", SETTINGS)
        wait_for(lambda: is_open(self.port), "a scheduler")

    def start_worker(self, *options: str, **environ: str) -> subprocess.Popen[bytes]:
        """`ggprune worker`, with one CPU thread."""
        command = [sys.executable, "-m", "ggprune", "worker", self.address, "-t", "1",
                   *self.tls_options, *options]  # fmt: skip
        self.workers.append(self._start(command, f"worker-{len(self.workers)}", environ))
        return self.workers[-1]

    def start_plain(self, *options: str, **environ: str) -> subprocess.Popen[bytes]:
        """`dask worker`."""
        command = [sys.executable, "-m", "dask", "worker", self.address, "--no-dashboard", *options]
        self.workers.append(self._start(command, f"worker-{len(self.workers)}", environ))
        return self.workers[-1]

    def _start(
        self, command: list[str], name: str, environ: dict[str, str]
    ) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("wb") as log:
            return subprocess.Popen(
                command, stdout=log, stderr=log, env={**os.environ, **self.environ, **environ},
                cwd=self.folder,
            )  # fmt: skip

    @contextlib.contextmanager
    def force(self, listener: Progress, **rules: Any) -> Iterator[Workforce]:
        with remote_client(self.address, self.tls, listener) as client:
            yield Workforce(client=client, rules=CrewRules(**{"wait_s": 60.0, **rules}))

    def close(self) -> None:
        processes = [*self.workers, *([self.scheduler] if self.scheduler else [])]
        everybody = [p for each in processes for p in family_of(each.pid)]
        for process in everybody:
            with contextlib.suppress(psutil.Error):
                process.resume()
                process.kill()
        for each in processes:
            each.wait()


@contextlib.contextmanager
def site(
    folder: Path, n_worker: int = 0, *, tls: bool = False, environ: Mapping[str, str] | None = None
) -> Iterator[Site]:
    """`environ` is the workers'."""
    files = make_keys(folder) if tls else None
    place = Site(folder, files, {"XDG_CACHE_HOME": str(folder / "cache")})
    try:
        place.start_scheduler()
        for _ in range(n_worker):
            place.start_worker(**(environ or {}))
        yield place
    finally:
        place.close()


def family_of(pid: int) -> list[psutil.Process]:
    """A process and all below it."""
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        return [*process.children(recursive=True), process]
    return []


def is_running(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


def worker_process(nanny: subprocess.Popen[bytes]) -> psutil.Process:
    """The one below `ggprune worker` that computes."""

    def found() -> psutil.Process | None:
        return next(
            (p for p in family_of(nanny.pid)[:-1] if "spawn_main" in " ".join(p.cmdline())), None
        )

    wait_for(lambda: found() is not None, "a worker process")
    process = found()
    assert process is not None
    return process


def wait_for(is_there: Callable[[], object], what: str, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(psutil.Error):
            if is_there():
                return
        time.sleep(0.05)
    raise AssertionError(f"no {what} after {seconds} s")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_open(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
        return True
    return False


def kill(*processes: psutil.Process) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)


def make_keys(folder: Path) -> TLSFiles:
    """A certificate that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "ggprune")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    cert_path, key_path = folder / "cert.pem", folder / "key.pem"
    cert_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )  # fmt: skip
    return TLSFiles(ca=cert_path, cert=cert_path, key=key_path)


def numbers_of(result: Any) -> Any:
    """A document without what it took, and who did it."""
    if isinstance(result, tuple):
        return [numbers_of(replace(each, workers=None)) for each in result]
    return without_effort(json.loads(to_text(result)))


def without_effort(value: Any) -> Any:
    if isinstance(value, dict):
        left_out = ("effort", "workers", "n_pass", "time_s")
        return {key: without_effort(each) for key, each in value.items() if key not in left_out}
    return [without_effort(each) for each in value] if isinstance(value, list) else value
