"""What logs of failed set-ups are read as. All excerpts are of real ones."""

from __future__ import annotations

import pytest

from setup.causes import cause_of

NO_COMPILER = """\
  *** scikit-build-core 1.1.2 using CMake 3.25.1 (wheel)
  *** Configuring CMake...
  CMake Error at /usr/share/cmake-3.25/Modules/CMakeDetermineCCompiler.cmake:49 (message):
    Could not find compiler set in environment variable CC:

    gcc.
  Call Stack (most recent call first):
    CMakeLists.txt:3 (project)

  CMake Error: CMAKE_C_COMPILER not set, after EnableLanguage
  CMake Error: CMAKE_CXX_COMPILER not set, after EnableLanguage
  -- Configuring incomplete, errors occurred!

  *** CMake configuration failed
  error: subprocess-exited-with-error

  full command: python pip/_vendor/pyproject_hooks/_in_process/_in_process.py build_wheel
  ERROR: Failed building wheel for llama-cpp-python
Failed to build llama-cpp-python
error: failed-wheel-build-for-install
"""
KILLED = """\
  g++: fatal error: Killed signal terminated program cc1plus
  compilation terminated.
  ninja: build stopped: subcommand failed.
  error: subprocess-exited-with-error
"""
NO_ENSUREPIP = """\
The virtual environment was not created successfully because ensurepip is not
available.  On Debian/Ubuntu systems, you need to install the python3-venv
package using the following command.

    apt install python3.11-venv
"""
REFUSED = """\
WARNING: Retrying (Retry(total=0, connect=None, read=None, redirect=None, status=None)) after \
connection broken by 'NewConnectionError('<pip._vendor.urllib3.connection.HTTPConnection object at \
0x7f4f7be4dc50>: Failed to establish a new connection: [Errno 111] Connection refused')': /simple/
ERROR: Could not find a version that satisfies the requirement blake3>=1.0 (from versions: none)
ERROR: No matching distribution found for blake3>=1.0
"""
NOT_THERE = """\
ERROR: Could not find a version that satisfies the requirement blake3>=1.0 (from versions: none)
ERROR: No matching distribution found for blake3>=1.0
"""
FULL = """\
    with bltn_open(targetpath, "wb") as target:
OSError: [Errno 28] No space left on device
"""


@pytest.mark.parametrize(
    ("log", "line"),
    [
        (NO_COMPILER, "there is no C and C++ compiler: install one (Debian: apt install"),
        (KILLED, "there is not enough memory to compile llama.cpp: with CMAKE_BUILD_PARALLEL"),
        ("virtual memory exhausted: Cannot allocate memory\n", "there is not enough memory"),
        (NO_ENSUREPIP, "this Python has no venv: install it (Debian: apt install python3-venv)"),
        ("/usr/bin/python3: No module named venv\n", "this Python has no venv"),
        (REFUSED, "the package index cannot be reached: is there a network?"),
        (NOT_THERE, "the package index has no blake3>=1.0 for this Python and system"),
        (FULL, "the disk is full: free 3 GB"),
        ("x.c:1:10: fatal error: Python.h: No such file or directory\n", "Python.h is missing"),
        ("PermissionError: [Errno 13] Permission denied: '/a b/c'\n", "/a b/c must not be written"),
    ],
)
def test_the_cause_is_named(log: str, line: str) -> None:
    said = cause_of(log)
    assert said.startswith(line)
    assert "\n" not in said


def test_an_unknown_cause_is_told_in_its_own_words() -> None:
    log = (
        "  foo.cpp:3:1: error: expected ';'\n  compilation\n  error: subprocess-exited-with-error\n"
    )
    assert cause_of(log) == "foo.cpp:3:1: error: expected ';'"
    assert (
        cause_of("error: subprocess-exited-with-error\n") == "error: subprocess-exited-with-error"
    )
    assert cause_of("") == "no reason was given"
