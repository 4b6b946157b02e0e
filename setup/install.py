"""Makes the environment and fills it. llama.cpp is compiled without what ggprune never loads."""

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Callable, Dict, Mapping, Optional, Sequence, Tuple

from setup.causes import cause_of

ROOT = Path(__file__).resolve().parent.parent
SLIM = Path(__file__).resolve().with_name("llama-cpp.cmake")
OLDEST = (3, 10)
LOG = "setup.log"
READY = ".ready"  # what make looks at
UNFINISHED = ".unfinished"  # from the first moment to the last
STEP = re.compile(r"\s*\[(\d+)/(\d+)\]")  # of ninja
TOLD = 20  # percent of the compilation between two lines about it
# GCC before 12.4/13.3 drops the stores in front of _tile_loadconfig, so that llama.cpp built for a
# processor with AMX crashes on quantized models.
NO_AMX = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"

Say = Callable[[str], None]
Environment = Mapping[str, str]


class SetupError(Exception):
    """One line that says what is missing, and what to do."""


def check_python(version: Tuple[int, ...]) -> None:
    if version[:2] < OLDEST:
        found, needed = (".".join(map(str, number)) for number in (version, OLDEST))
        line = "this is Python {}, ggprune needs {} or newer: make PYTHON=python{}, if there is one"
        raise SetupError(line.format(found, needed, needed))


def set_up(venv: Path, what: Sequence[str], say: Say) -> None:
    """Make `venv` and have pip install `what` there. Raises SetupError."""
    try:
        begin(venv)
        run([sys.executable, "-m", "venv", str(venv)], venv / LOG, os.environ)
        pip = [str(python_of(venv)), "-m", "pip"]
        run([*pip, "install", "--upgrade", "pip"], venv / LOG, os.environ)
        environment = {**os.environ, **build_settings(os.environ, amx=has_amx())}
        environment.update(own_cache(pip, os.environ))
        say("Installing. llama.cpp is compiled the first time: about 2 minutes on two cores.")
        run([*pip, "install", "--verbose", *what], venv / LOG, environment, Progress(say))
        finish(venv)
    except OSError as e:
        raise SetupError("{}: {}".format(e.filename or venv, e.strerror or e)) from e


def begin(venv: Path) -> None:
    """What an interrupted or failed set-up left goes; a finished environment is updated."""
    if (venv / UNFINISHED).exists():
        shutil.rmtree(str(venv))
    if not venv.exists():
        venv.mkdir(parents=True)
        (venv / UNFINISHED).touch()
    (venv / LOG).write_text("", "utf-8")


def finish(venv: Path) -> None:
    (venv / READY).touch()
    if (venv / UNFINISHED).exists():  # not where it was updated, or made by hand
        (venv / UNFINISHED).unlink()


def python_of(venv: Path) -> Path:
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def build_settings(environment: Environment, *, amx: bool) -> Dict[str, str]:
    """What llama-cpp-python is compiled with. The user's own settings come last: they count."""
    slim = "-DLLAVA_BUILD=OFF -DCMAKE_PROJECT_llama.cpp_INCLUDE={}"
    ours = {"CMAKE_ARGS": slim.format(shlex.quote(SLIM.as_posix()))}
    if amx:
        ours.update(CFLAGS=NO_AMX, CXXFLAGS=NO_AMX)
    return {name: (text + " " + environment.get(name, "")).strip() for name, text in ours.items()}


def has_amx() -> bool:
    processors = Path("/proc/cpuinfo")
    return processors.exists() and "amx_tile" in processors.read_text("utf-8").split()


def own_cache(pip: Sequence[str], environment: Environment) -> Dict[str, str]:
    """A folder in pip's cache for this way of compiling alone; nothing where there is no cache.

    No other project wants a llama-cpp-python that cannot see pictures, and pip, who knows a wheel
    by where its source came from, would give them this one.
    """
    asked = subprocess.run(
        [*pip, "cache", "dir"], check=False, env=dict(environment), universal_newlines=True,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    if asked.returncode != 0:
        return {}
    settings = [environment.get(name) for name in ("CMAKE_ARGS", "CFLAGS", "CXXFLAGS", "CC", "CXX")]
    digest = hashlib.sha256(repr([SLIM.read_text("utf-8"), has_amx(), *settings]).encode())
    return {"PIP_CACHE_DIR": str(Path(asked.stdout.strip(), "ggprune-" + digest.hexdigest()[:12]))}


class Progress:
    """Says now and then how far the compilation is, from the lines of the build."""

    def __init__(self, say: Say) -> None:
        self.say, self.next = say, TOLD

    def __call__(self, line: str) -> None:
        step = STEP.match(line)
        percent = 100 * int(step.group(1)) // int(step.group(2)) if step else 0
        if percent >= self.next:
            self.say("  llama.cpp: {} % compiled".format(percent))
            self.next = percent - percent % TOLD + TOLD


def run(
    command: Sequence[str], log: Path, environment: Environment, hear: Optional[Say] = None
) -> None:
    """Append what it says to `log`, and tell `hear` every line. Raises SetupError if it fails."""
    with log.open("a", encoding="utf-8") as out, subprocess.Popen(
        command, cwd=str(ROOT), env=dict(environment), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", errors="replace",
    ) as child:  # fmt: skip
        for line in child.stdout or ():
            out.write(line)
            if hear is not None:
                hear(line)
    if child.returncode != 0:
        said = log.read_text("utf-8")
        raise SetupError("{} (all that was said: {})".format(cause_of(said), log))
