"""Runs a command whose stderr is a terminal, and says what progress it showed there.

How often a bar is drawn depends on time; which bars there are and what the status line said does
not.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading

STATUS = re.compile(r"\r\x1b\[K([^\r\x1b]+)")
LABEL = re.compile(r"\r([a-z][\w -]*):  *\d+%")


def read_all(terminal: int) -> str:
    """What was written until the last writer has gone."""
    parts = []
    while True:
        try:
            part = os.read(terminal, 1 << 16)
        except OSError:
            break
        if not part:
            break
        parts.append(part)
    return b"".join(parts).decode("utf-8", "replace")


def main() -> None:
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 120, 0, 0))
    found: list[str] = []
    reader = threading.Thread(target=lambda: found.append(read_all(master)))
    reader.start()
    done = subprocess.run([sys.executable, *sys.argv[1:]], stderr=slave, check=False)
    os.close(slave)
    reader.join()
    print("status:", *STATUS.findall(found[0]), sep="\n  ")
    print("bars:", *dict.fromkeys(LABEL.findall(found[0])), sep="\n  ")
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
