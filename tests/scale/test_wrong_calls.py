"""A wrong call is one line that says what to do, within the time that it names."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import CALIBRATION, TINY
from tests.scale.site import free_port, make_keys, site

RANK = ("rank", str(TINY), "-f", str(CALIBRATION), "-c", "64", "--chunks", "2", "--no-cache")
EVAL = ("eval", str(TINY), "-f", str(CALIBRATION), "-c", "64", "--chunks", "2")


def run(*arguments: str, **environ: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "ggprune", *arguments], capture_output=True, text=True, check=False,
        timeout=90, env={**os.environ, **environ},
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    assert not done.stdout
    errors = [line for line in done.stderr.splitlines() if line.startswith("ggprune: error: ")]
    assert len(errors) == 1, done.stderr
    return done.returncode, errors[0].removeprefix("ggprune: error: ")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((*RANK, "--workers", "0"), 2, "--workers 0: write a number from 1 on, or auto"),
        ((*RANK, "--workers", "some"), 2, "--workers some: write a number from 1 on, or auto"),
        ((*RANK, "--workers", "2", "--scheduler", "tcp://127.0.0.1:1"), 2,
         "--workers or --scheduler, not both"),
        ((*RANK, "--workers", "2", "--gpus-per-worker", "2"), 2,
         "--gpus-per-worker 2: llama.cpp sees no GPU here"),
        ((*RANK, "--scheduler", "127.0.0.1:8786"), 2,
         "127.0.0.1:8786: no scheduler; write tcp://host:port, tls://host:port, or its "
         "--scheduler-file"),
        ((*RANK, "--scheduler", "http://127.0.0.1:8786"), 2,
         "http://127.0.0.1:8786: no scheduler; write tcp://host:port, tls://host:port, or its "
         "--scheduler-file"),
        ((*RANK, "--scheduler", str(TINY)), 1,
         f"{TINY}: not a file that dask scheduler --scheduler-file wrote"),
        ((*RANK, "--mixed"), 2, "--mixed is about workers: add --workers or --scheduler"),
        ((*RANK, "--workers", "2", "--tls-key", "key.pem"), 2,
         "TLS needs all three of --tls-ca-file, --tls-cert, --tls-key: --tls-ca-file is missing"),
        ((*RANK, "--workers", "2", "--wait", "soon"), 2,
         "--wait soon: write a time like 90s, 10m or 1h"),
        ((*RANK, "--workers", "2", "--keep", "much"), 2,
         "--keep much: write a number like 4.2G, 900M or 4GiB"),
        ((*RANK, "--workers", "2", "--rpc", "127.0.0.1:50052"), 2,
         "--rpc: a server serves one client, so it is given to a ggprune worker of its own"),
        ((*RANK, "--rpc", "127.0.0.1"), 2, "--rpc 127.0.0.1: write host:port"),
        ((*EVAL, "--workers", "2", "--save-logits", "logits"), 2,
         "--save-logits does not go with --workers or --scheduler: logits stay here"),
        ((*EVAL, "--workers", "2", "--generate"), 2,
         "--workers and --scheduler are for perplexity and KL divergence alone"),
        (("worker",), 2, "give the scheduler's ADDRESS, or --scheduler-file FILE"),
        (("worker", "tcp://127.0.0.1:1", "--path-map", "/data"), 2,
         "--path-map /data: write OLD=NEW, how paths begin there and here"),
        (("worker", "tcp://127.0.0.1:1", "--gpus", "7"), 2,
         "--gpus 7: llama.cpp sees 0 GPUs here"),
    ],
)  # fmt: skip
def test_before_anything_is_started(arguments: tuple[str, ...], code: int, said: str) -> None:
    assert run(*arguments) == (code, said)


def test_nobody_is_there(tmp_path: Path) -> None:
    address, start = f"tcp://127.0.0.1:{free_port()}", time.monotonic()
    code, said = run("worker", address, "--wait", "2s")
    assert code == 1
    assert said.startswith(f"{address} cannot be joined within 2 s (--wait): ")
    assert time.monotonic() - start < 30
    with site(tmp_path) as place:
        code, said = run(*RANK, "--scheduler", place.address, "--wait", "2s")
        assert (code, said) == (1, f"no worker came to {place.address} within 2 s (--wait)")


def test_keys_that_are_missing_or_wrong(tmp_path: Path) -> None:
    with site(tmp_path, tls=True) as place:
        code, said = run(*RANK, "--scheduler", place.address)
        told = "speaks TLS: --tls-ca-file, --tls-cert and --tls-key are needed"
        assert (code, said) == (1, f"{place.address}: {told}")
        other = tmp_path / "other"
        other.mkdir()
        keys = make_keys(other)
        files = ["--tls-ca-file", str(keys.ca), "--tls-cert", str(keys.cert), "--tls-key"]
        code, said = run(*RANK, "--scheduler", place.address, *files, str(keys.key))
        assert code == 1
        assert said.startswith(f"no scheduler answers at {place.address} within 30 s: ")
        code, said = run(*RANK, "--scheduler", place.address, *files, str(tmp_path / "none.pem"))
        assert (code, said) == (1, f"{tmp_path / 'none.pem'}: No such file or directory")


def test_a_scheduler_without_ggprune(tmp_path: Path) -> None:
    """Its interpreter finds a package of that name that is none."""
    (tmp_path / "empty" / "ggprune").mkdir(parents=True)
    (tmp_path / "empty" / "ggprune" / "__init__.py").write_text("raise ImportError('not here')\n")
    with site(tmp_path) as place:
        assert place.scheduler is not None
        place.scheduler.kill()
        place.scheduler.wait()
        place.environ["PYTHONPATH"] = str(tmp_path / "empty")
        place.start_scheduler()
        code, said = run(*RANK, "--scheduler", place.address)
    assert code == 1
    assert said.startswith(f"the scheduler at {place.address} has no ggprune that can be used: pip")


def test_the_extra_is_missing(tmp_path: Path) -> None:
    hidden = tmp_path / "sitecustomize.py"
    hidden.write_text(
        "import importlib.util as u\n"
        "find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'distributed' else find(name, *a)\n"
    )
    code, said = run(*RANK, "--workers", "2", PYTHONPATH=str(tmp_path))
    assert (code, said) == (2, "--workers needs: pip install 'ggprune[scale]'")
    code, said = run("worker", "tcp://127.0.0.1:1", PYTHONPATH=str(tmp_path))
    assert (code, said) == (2, "ggprune worker needs: pip install 'ggprune[scale]'")


def test_settings_of_a_scheduler(tmp_path: Path) -> None:
    from tests.scale import site as module

    settings = dict(module.SETTINGS)
    module.SETTINGS.clear()
    try:
        with site(tmp_path) as place:
            done = subprocess.run(
                [sys.executable, "-m", "ggprune", *RANK, "--scheduler", place.address,
                 "--wait", "1s"], capture_output=True, text=True, check=False,
            )  # fmt: skip
    finally:
        module.SETTINGS.update(settings)
    assert "keeps a machine that hangs for 5 minutes" in done.stderr
    assert "gives up what 4 workers died of" in done.stderr
