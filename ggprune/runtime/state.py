"""What a context knows of the tokens it has read, taken out and put back.

Saves reading the same tokens again before every repetition of a measurement.
"""

from __future__ import annotations

import ctypes

from ggprune.errors import LlamaError
from ggprune.runtime.session import Session


def read_state(session: Session) -> bytes:
    """Everything that a session of one sequence remembers."""
    lib, handle = session.lib, session.handle
    n_byte = lib.llama_state_seq_get_size(handle, 0)
    buffer = (ctypes.c_uint8 * n_byte)()
    if lib.llama_state_seq_get_data(handle, buffer, n_byte, 0) != n_byte:
        raise LlamaError(f"{session.model.path}: llama.cpp could not copy the context's state")
    return bytes(buffer)


def write_state(session: Session, state: bytes) -> bool:
    """Put a state back into an empty session; False if it does not fit, which leaves no trace."""
    buffer = (ctypes.c_uint8 * len(state)).from_buffer_copy(state)
    return bool(session.lib.llama_state_seq_set_data(session.handle, buffer, len(state), 0))
