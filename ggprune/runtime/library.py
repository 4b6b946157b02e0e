"""The shared libraries behind llama-cpp-python: loading them, their log.

Only this package imports llama_cpp, and only inside functions, so that nothing is loaded before it
is needed.
"""

from __future__ import annotations

import ctypes
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import TypeAlias

import psutil

from ggprune.errors import LlamaError
from ggprune.lean import import_lean
from ggprune.version import __version__

Llama: TypeAlias = ModuleType  # llama_cpp: its functions are not typed
BINDINGS = "llama_cpp.llama_cpp"

# llama_log_callback (level, text, user data); ctypes makes one type of equal ones
_LOG_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
LOG_LINES = 40
SERIOUS = (3, 4)  # GGML_LOG_LEVEL_WARN, GGML_LOG_LEVEL_ERROR
# What to do where a struct or a table of ggml's is not as expected.
REMEDY = "install the llama-cpp-python version that ggprune was tested with"


class LogTail:
    """The last lines of a log. Keeps the callback alive: a collected one is a segfault."""

    def __init__(self) -> None:
        self.lines: deque[tuple[int, str]] = deque(maxlen=LOG_LINES)
        self.listeners: list[Callable[[str], object]] = []
        self.callback = _LOG_CALLBACK(self._on_line)

    def _on_line(self, level: int, text: bytes, _: object) -> None:
        piece = text.decode("utf-8", "replace")
        self.lines.append((level, piece.rstrip("\n")))
        for listener in self.listeners:
            listener(piece)

    @contextmanager
    def heard_by(self, listener: Callable[[str], object]) -> Iterator[None]:
        """Call `listener` with every piece of the log meanwhile; a line may come in several."""
        self.listeners.append(listener)
        try:
            yield
        finally:
            self.listeners.remove(listener)

    def last_error(self) -> str:
        """The newest error that says a reason, else the newest one at all, else nothing."""
        serious = [line.strip() for level, line in self.lines if level in SERIOUS]
        lines = [line for line in reversed(serious) if line]
        return next((line for line in lines if "error" in line), next(iter(lines), ""))


@cache
def llama() -> Llama:
    """llama_cpp's bindings, initialised and quiet. Raises LlamaError if it cannot be loaded."""
    import_lean("llama_cpp")
    try:
        import llama_cpp.llama_cpp as module
    except (ImportError, OSError, RuntimeError) as e:
        raise LlamaError(f"llama-cpp-python cannot be loaded: {e}") from e
    module.llama_log_set(log_tail().callback, ctypes.c_void_p(0))
    module.llama_backend_init()
    bindings: Llama = module
    return bindings


log_tail = cache(LogTail)  # the one that llama.cpp logs to


# What each of ggml's libraries has that the others do not.
_SYMBOLS = {
    "ggml-base": "ggml_commit", "ggml": "ggml_backend_dev_count",
    "ggml-cpu": "ggml_backend_cpu_reg", "llama": "llama_decode",
}  # fmt: skip


@cache
def ggml(name: str = "ggml-base") -> ctypes.CDLL:
    """One of ggml's libraries that llama_cpp brings but does not bind.

    The copy that llama.cpp itself uses, where the system looks a symbol up in what a library
    depends on: a wheel has copies in place of links, and the same name may load another one.
    """
    bindings = llama()
    used = ctypes.CDLL(bindings._lib._name)  # the same library, declared anew
    if hasattr(used, _SYMBOLS[name]):
        return used
    library: ctypes.CDLL = bindings.load_shared_library(name, Path(bindings._lib._name).parent)
    return library


def declare(lib: ctypes.CDLL, types: Mapping[str, tuple[object, ...]]) -> ctypes.CDLL:
    """Say what functions of a library give and take: (result, argument, ...) by name."""
    for name, (result, *arguments) in types.items():
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    return lib


def versions() -> dict[str, str]:
    """What produced a result; part of every report."""
    packages = ("llama-cpp-python", "gguf", "numpy")
    return {"ggprune": __version__, **{name: version(name) for name in packages}}


def default_threads() -> int:
    """Physical cores this process may use: llama.cpp's own default."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    physical = psutil.cpu_count(logical=False)
    return max(1, min(physical or allowed or 1, allowed or 1))
