"""Where a scheduler is, and whether others can reach it. Loads nothing of Dask's."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from ggprune.errors import DataError, UsageError
from ggprune.files.documents import parse_json
from ggprune.files.reading import read_bytes

EXTRA = ("distributed", "cryptography")
WHERE = "no scheduler; write tcp://host:port, tls://host:port, or its --scheduler-file"
LOOPBACK = ("127.0.0.1", "localhost", "::1", "[::1]")


@dataclass(frozen=True, kw_only=True)
class TLSFiles:
    """Of mutual TLS, as openssl writes them."""

    ca: Path
    cert: Path
    key: Path


def check_extra(option: str) -> None:
    """Raises UsageError that names the command."""
    if any(find_spec(name) is None for name in EXTRA):
        raise UsageError(f"{option} needs: pip install 'ggprune[scale]'")


def address_of(where: str) -> str:
    """Raises DataError for a file that is none, UsageError for what is no address."""
    if "://" in where:
        parts = urlsplit(where)
        try:
            is_whole = parts.scheme in ("tcp", "tls") and bool(parts.hostname and parts.port)
        except ValueError:
            is_whole = False
        if not is_whole:
            raise UsageError(f"{where}: {WHERE}")
        return where
    if not Path(where).exists():
        raise UsageError(f"{where}: {WHERE}")
    try:
        document = parse_json(read_bytes(Path(where)).decode("utf-8"))
        address = document["address"]  # type: ignore[index,call-overload]
    except (ValueError, KeyError, TypeError) as e:
        raise DataError(f"{where}: not a file that dask scheduler --scheduler-file wrote") from e
    return str(address)


def is_exposed(address: str) -> bool:
    """Can others reach it, and run code as we do?"""
    return not address.startswith("tls://") and urlsplit(address).hostname not in LOOPBACK
