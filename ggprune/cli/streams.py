"""The standard streams as the command line needs them: all open, none failing on a strange name."""

from __future__ import annotations

import io
import os
import sys

STREAMS = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))


def prepare_streams() -> None:
    """Open those that we were started without, and have what an encoding lacks be escaped.

    The number of a closed one would be that of the next file to be opened, which would then get
    all that llama.cpp prints; and a child process has nothing to inherit.
    """
    for fd, (name, mode) in enumerate(STREAMS):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            if null != fd:
                os.dup2(null, fd)
                os.close(null)
            os.set_inheritable(fd, True)
            setattr(sys, name, os.fdopen(fd, mode))
    for stream in (sys.stdout, sys.stderr):  # names in a file need not be valid UTF-8
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def stdout_encoding() -> str:
    return sys.stdout.encoding or "utf-8"
