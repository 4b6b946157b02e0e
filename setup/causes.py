"""Why a set-up failed, read from all that pip, cmake and the compilers have said."""

import re
from typing import NamedTuple


class Cause(NamedTuple):
    """What the log of a failure shows, and the line for it; {} is what the pattern found."""

    pattern: str
    line: str


# In this order: what comes first explains what comes behind it.
CAUSES = (
    Cause(
        r"No space left on device|not enough space on the disk|Disk quota exceeded",
        "the disk is full: free 3 GB for .venv and for temporary files (TMPDIR says where)",
    ),
    Cause(
        r"Killed signal terminated program|internal compiler error: Killed|virtual memory exhausted"
        r"|out of memory allocating|Cannot allocate memory|terminated by signal 9|error C1060:",
        "there is not enough memory to compile llama.cpp: with CMAKE_BUILD_PARALLEL_LEVEL=1 in the "
        "environment 1 GB will do",
    ),
    Cause(
        r"Could not find compiler set in environment variable"
        r"|No CMAKE_C(?:XX)?_COMPILER could be found|CMAKE_C(?:XX)?_COMPILER not set"
        r"|could not find any instance of Visual Studio|invalid active developer path"
        r"|no developer tools were found",
        "there is no C and C++ compiler: install one (Debian: apt install build-essential, Fedora: "
        "dnf install gcc-c++, macOS: xcode-select --install, Windows: the C++ build tools of "
        "Visual Studio)",
    ),
    Cause(
        r"The C(?:XX)? compiler\s+\S+\s+is not able to compile a simple test program",
        "the C or C++ compiler does not work: install it anew, or name another one (CC, CXX)",
    ),
    Cause(
        r"ensurepip is not\s+available|No module named '?(?:venv|ensurepip)\b",
        "this Python has no venv: install it (Debian: apt install python3-venv)",
    ),
    Cause(
        r"(CMake \S+ or higher is required|Could not find (?:CMake|Ninja)\b.*)",
        "{}: install a newer cmake, and ninja",
    ),
    Cause(
        r"fatal error: (Python\.h)",
        "{} is missing: install Python's headers (Debian: apt install python3-dev)",
    ),
    Cause(
        r"Permission denied: '([^'\n]+)'",
        "{} must not be written by this user",
    ),
    Cause(
        r"NewConnectionError|NameResolutionError|ConnectTimeoutError|ReadTimeoutError|SSLError"
        r"|Max retries exceeded|Read timed out|ProxyError|ConnectionResetError|IncompleteRead",
        "the package index cannot be reached: is there a network? (behind a proxy: HTTPS_PROXY)",
    ),
    Cause(
        r"No matching distribution found for (\S+)",
        "the package index has no {} for this Python and system: try another one (make PYTHON=...)",
    ),
)
# What pip says of every failure.
COMMON = r"subprocess-exited-with-error|failed-wheel|metadata-generation-failed|failed to build"


def cause_of(log: str) -> str:
    """What is missing and what to do, in one line; for unknown causes the last error's own line."""
    for pattern, line in CAUSES:
        found = re.search(pattern, log)
        if found:
            return line.format(*found.groups())
    lines = [line.strip() for line in log.splitlines()]
    errors = [line for line in lines if re.search(r"\berror\b", line, re.IGNORECASE)]
    telling = [line for line in errors if not re.search(COMMON, line, re.IGNORECASE)]
    return (telling or errors or ["no reason was given"])[-1]
