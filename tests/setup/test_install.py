"""Set-ups that succeed, fail and are interrupted, for real: Python's venv, pip, cmake, a compiler.

Nothing is downloaded: pip installs a small project that brings its own build backend.
"""

from __future__ import annotations

import ast
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pytest

from setup.install import Progress, SetupError, build_settings, check_python, own_cache, python_of

ROOT = Path(__file__).parent.parent.parent
PYPROJECT = """\
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "small"
version = "1"
"""
# A wheel with one module, which says what the build was told.
BACKEND = """\
import os, pathlib, subprocess, sys, time, zipfile

def build_wheel(folder, config_settings=None, metadata_directory=None):
    {before}
    files = {{
        "small.py": "SETTINGS = " + repr(os.environ.get("CMAKE_ARGS")),
        "small-1.dist-info/METADATA": "Metadata-Version: 2.1\\nName: small\\nVersion: 1\\n",
        "small-1.dist-info/WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\n",
        "small-1.dist-info/RECORD": "",
    }}
    with zipfile.ZipFile(pathlib.Path(folder, "small-1-py3-none-any.whl"), "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)
    return "small-1-py3-none-any.whl"
"""


def project(folder: Path, before: str = "pass") -> Path:
    """A project whose build does something `before` it makes the wheel."""
    folder.mkdir()
    (folder / "pyproject.toml").write_text(PYPROJECT)
    (folder / "backend.py").write_text(BACKEND.format(before=before))
    return folder


def environment(**more: str) -> dict[str, str]:
    """Without the network, and without the settings of whoever runs the tests."""
    names = ("CMAKE_ARGS", "CFLAGS", "CXXFLAGS", "PIP_NO_CACHE_DIR")
    kept = {name: value for name, value in os.environ.items() if name not in names}
    return kept | {"PIP_NO_INDEX": "1"} | more


def command(venv: Path, what: str) -> list[str]:
    return [sys.executable, "-m", "setup", "--venv", str(venv), "--", what]


def set_up(
    venv: Path, what: str, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(venv, what), cwd=ROOT, env=env or environment(),
        check=False, capture_output=True, text=True,
    )  # fmt: skip


def settings_in(venv: Path) -> str:
    """What the build of the installed project was told."""
    code = "import small; print(small.SETTINGS)"
    return subprocess.check_output([python_of(venv), "-c", code], text=True).strip()


def test_it_installs_and_then_updates(tmp_path: Path) -> None:
    """The user's cmake settings are kept, behind ours, and so is what is in the folder by hand."""
    venv, small = tmp_path / "a folder", project(tmp_path / "small")
    venv.mkdir()
    (venv / "mine").touch()
    done = set_up(venv, str(small), environment(CMAKE_ARGS="-DGGML_CUDA=on"))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1].startswith("Set up in ")
    slim = f"-DCMAKE_PROJECT_llama.cpp_INCLUDE={ROOT}/setup/llama-cpp.cmake"
    assert settings_in(venv) == f"-DLLAVA_BUILD=OFF {slim} -DGGML_CUDA=on"
    assert (venv / ".ready").exists()
    assert set_up(venv, str(small)).returncode == 0
    assert (venv / "mine").exists()


@pytest.mark.skipif(os.name == "nt", reason="Windows interrupts consoles, not processes")
def test_an_interrupted_set_up_begins_anew(tmp_path: Path) -> None:
    started = tmp_path / "started"
    slow = project(tmp_path / "slow", f"pathlib.Path({str(started)!r}).touch(); time.sleep(300)")
    venv = tmp_path / "venv"
    with subprocess.Popen(
        command(venv, str(slow)), cwd=ROOT, env=environment(), start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509  no threads
    ) as child:  # fmt: skip
        limit = time.monotonic() + 120
        while not started.exists() and time.monotonic() < limit:
            time.sleep(0.05)
        os.killpg(child.pid, signal.SIGINT)  # as a terminal does
        assert child.communicate()[1] == "set-up interrupted; the next one begins anew\n"
    assert child.returncode == 130
    assert not (venv / ".ready").exists()
    (venv / "half a file").touch()
    assert set_up(venv, str(project(tmp_path / "small"))).returncode == 0
    assert (venv / ".ready").exists()
    assert not (venv / "half a file").exists()


def test_a_machine_without_a_compiler(tmp_path: Path) -> None:
    cmake = shutil.which("cmake")
    if cmake is None:
        pytest.skip("there is no cmake to ask")
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "cmake").symlink_to(cmake)
    before = "subprocess.run(['cmake', '-S', '.', '-B', 'out'], check=True)"
    small = project(tmp_path / "small", before)
    (small / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.10)\nproject(x C CXX)\n"
    )
    # scikit-build-core names Python's own compiler to cmake
    done = set_up(tmp_path / "venv", str(small), environment(PATH=str(tools), CC="gcc", CXX="g++"))
    assert_one_line(done, tmp_path / "venv", "there is no C and C++ compiler: install one")


def test_a_machine_without_memory(tmp_path: Path) -> None:
    """Each program that gcc starts is killed, as the kernel does where memory ends."""
    gcc = shutil.which("g++")
    if gcc is None or "Free Software" not in subprocess.check_output([gcc, "--version"], text=True):
        pytest.skip("there is no gcc to ask")
    killed = tmp_path / "killed"
    killed.write_text("#!/bin/sh\nkill -9 $$\n")
    killed.chmod(0o755)
    before = f"subprocess.run([{gcc!r}, '-wrapper', {str(killed)!r}, '-c', 'x.cpp'], check=True)"
    small = project(tmp_path / "small", before)
    (small / "x.cpp").touch()
    done = set_up(tmp_path / "venv", str(small))
    assert_one_line(done, tmp_path / "venv", "there is not enough memory to compile llama.cpp")


def test_a_machine_without_a_network(tmp_path: Path) -> None:
    """The index is a port of this machine where nobody listens."""
    env = {name: value for name, value in environment().items() if not name.startswith("PIP_")}
    off = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "1"}
    done = set_up(tmp_path / "venv", "small", env | off | {"PIP_CONFIG_FILE": os.devnull})
    assert_one_line(done, tmp_path / "venv", "the package index cannot be reached")


def assert_one_line(done: subprocess.CompletedProcess[str], venv: Path, begins: str) -> None:
    assert done.returncode == 1
    assert done.stderr.startswith(f"set-up failed: {begins}")
    assert done.stderr.endswith(f" (all that was said: {venv / 'setup.log'})\n")
    assert done.stderr.count("\n") == 1
    assert (
        "Error" in (venv / "setup.log").read_text() or "error" in (venv / "setup.log").read_text()
    )
    assert not (venv / ".ready").exists()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = set_up(tmp_path / "file" / "venv", "small")
    assert done.returncode == 1
    assert done.stderr == f"set-up failed: {tmp_path / 'file' / 'venv'}: Not a directory\n"


@pytest.mark.parametrize("version", [(3, 6, 15), (3, 9, 18)])
def test_an_old_python_is_told_so(version: tuple[int, ...]) -> None:
    with pytest.raises(SetupError, match=r"^this is Python 3\.[69]\.1\d, ggprune needs 3\.10 or"):
        check_python(version)


def test_an_old_python_can_read_it() -> None:
    for path in (ROOT / "setup").glob("*.py"):
        tree = ast.parse(path.read_text("utf-8"), feature_version=(3, 6))
        assert "__future__" not in ast.dump(tree)  # 3.6 does not know `annotations`


def test_a_processor_with_amx_is_compiled_for_without_it() -> None:
    plain, amx = (build_settings({"CFLAGS": "-O2"}, amx=amx) for amx in (False, True))
    assert set(plain) == {"CMAKE_ARGS"}
    assert amx["CFLAGS"] == "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16 -O2"
    assert amx["CXXFLAGS"] == "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"


def test_pip_keeps_what_was_compiled_apart(tmp_path: Path) -> None:
    """From other projects, and from what other settings gave; nothing where it may not cache."""
    pip = [sys.executable, "-m", "pip"]
    env = environment(PIP_CACHE_DIR=str(tmp_path))
    ours, cuda = own_cache(pip, env), own_cache(pip, env | {"CMAKE_ARGS": "-DGGML_CUDA=on"})
    folders = [Path(found["PIP_CACHE_DIR"]) for found in (ours, cuda)]
    assert [folder.parent for folder in folders] == [tmp_path, tmp_path]
    assert folders[0] != folders[1]
    assert own_cache(pip, env) == ours
    assert own_cache(pip, env | {"PIP_NO_CACHE_DIR": "1"}) == {}


def test_progress_is_told_in_few_lines() -> None:
    said: list[str] = []
    progress = Progress(said.append)
    for line in [
        "Collecting llama-cpp-python\n",
        *(f"  [{n}/83] c++ x.cpp\n" for n in range(1, 84)),
    ]:
        progress(line)
    assert said == [f"  llama.cpp: {n} % compiled" for n in (20, 40, 60, 80, 100)]
