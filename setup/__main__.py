"""The command line: says how far it is and, if it fails, in one line what is missing."""

import argparse
import sys
import time
from pathlib import Path

from setup.install import ROOT, SetupError, check_python, set_up

INTERRUPTED = 130  # 128 + SIGINT, as shells report it
DEVELOPMENT = ["--editable", ".[dev]"]  # in the checkout


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m setup", description="Set ggprune up.")
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", help="where; default: .venv")
    parser.add_argument("what", nargs="*", help="for pip install, behind --; default: all of it")
    asked = parser.parse_args()
    start = time.monotonic()
    try:
        check_python(tuple(sys.version_info[:3]))
        set_up(asked.venv, asked.what or DEVELOPMENT, say)
    except SetupError as e:
        print("set-up failed: {}".format(e), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("set-up interrupted; the next one begins anew", file=sys.stderr)
        return INTERRUPTED
    say("Set up in {:.0f} s.".format(time.monotonic() - start))
    return 0


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
