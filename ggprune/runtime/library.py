"""The shared libraries behind llama-cpp-python: loading them, their log.

Only this package imports llama_cpp, and only inside functions, so that nothing is loaded before it
is needed.
"""

from __future__ import annotations

import ctypes
import os
from collections import deque
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import TypeAlias

import psutil

from ggprune.errors import LlamaError
from ggprune.version import __version__

Llama: TypeAlias = ModuleType  # llama_cpp: its functions are not typed
LogCallback = Callable[[int, bytes, object], None]  # level, text

LOG_LINES = 40
SERIOUS = (3, 4)  # GGML_LOG_LEVEL_WARN, GGML_LOG_LEVEL_ERROR


class LogTail:
    """The last lines of a log. Keeps the callback alive: a collected one is a segfault."""

    def __init__(self, make_callback: Callable[[LogCallback], object]) -> None:
        self.lines: deque[tuple[int, str]] = deque(maxlen=LOG_LINES)
        self.listeners: list[Callable[[str], object]] = []
        self.callback = make_callback(self._on_line)

    def _on_line(self, level: int, text: bytes, _: object) -> None:
        piece = text.decode("utf-8", "replace")
        self.lines.append((level, piece.rstrip("\n")))
        for listener in self.listeners:
            listener(piece)

    def last_error(self) -> str:
        """The newest error that says a reason, else the newest one at all, else nothing."""
        serious = [line.strip() for level, line in self.lines if level in SERIOUS]
        lines = [line for line in reversed(serious) if line]
        return next((line for line in lines if "error" in line), next(iter(lines), ""))


@cache
def llama() -> Llama:
    """The llama_cpp module, initialised and quiet. Raises LlamaError if it cannot be loaded."""
    try:
        import llama_cpp
    except (ImportError, OSError, RuntimeError) as e:
        raise LlamaError(f"llama-cpp-python cannot be loaded: {e}") from e
    llama_cpp.llama_log_set(log_tail().callback, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    module: Llama = llama_cpp
    return module


@cache
def log_tail() -> LogTail:
    import llama_cpp

    return LogTail(llama_cpp.llama_log_callback)


@cache
def ggml(name: str = "ggml-base") -> ctypes.CDLL:
    """One of ggml's libraries that llama_cpp brings but does not bind."""
    from llama_cpp._ctypes_extensions import load_shared_library

    folder = Path(str(llama().__file__)).parent / "lib"
    library: ctypes.CDLL = load_shared_library(name, folder)
    return library


def versions() -> dict[str, str]:
    """What produced a result; part of every report."""
    return {
        "ggprune": __version__,
        "llama-cpp-python": version("llama-cpp-python"),
        "gguf": version("gguf"),
        "numpy": version("numpy"),
    }


def default_threads() -> int:
    """Physical cores this process may use: llama.cpp's own default."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    physical = psutil.cpu_count(logical=False)
    return max(1, min(physical or allowed or 1, allowed or 1))
