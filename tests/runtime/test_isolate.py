from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ggprune.errors import LlamaAbortError, LlamaError
from ggprune.runtime import session as runtime_session
from ggprune.runtime.isolate import isolated
from ggprune.runtime.lastwords import (
    announce,
    decode_limit_s,
    model_limit_s,
    quantize_limit_s,
    text_limit_s,
    time_limit,
)
from ggprune.runtime.probe import Sense, probe
from ggprune.runtime.session import LlamaModel, Session
from tests.conftest import TINY


def add(a: int, b: int) -> int:
    return a + b


def abort_with_a_message() -> None:
    os.write(2, b"GGML_ASSERT(n > 0) failed\n")
    os.kill(os.getpid(), signal.SIGABRT)


def abort_on(path: Path) -> None:
    announce(path)
    abort_with_a_message()


def take_long(path: Path) -> None:
    announce(path)
    with time_limit(0.1, f"{path}: sleeping"):
        time.sleep(60)


def fail() -> None:
    raise LlamaError("a reason")


def leave() -> None:
    os._exit(3)


def say() -> None:
    print("to the terminal", file=sys.stderr)
    os.write(2, b"noise of the C++ side\n")


def test_a_result_comes_back() -> None:
    assert isolated(add, 2, b=3) == 5


def test_an_error_comes_back_as_it_is() -> None:
    with pytest.raises(LlamaError, match="a reason"):
        isolated(fail)


def test_an_abort_becomes_one_line_with_its_reason() -> None:
    with pytest.raises(LlamaAbortError, match=r"SIGABRT: GGML_ASSERT\(n > 0\) failed"):
        isolated(abort_with_a_message)
    with pytest.raises(LlamaAbortError, match="exit code 3"):
        isolated(leave)


def test_an_abort_names_the_model_that_was_worked_on() -> None:
    with pytest.raises(LlamaAbortError, match=r"^a b\.gguf: llama\.cpp was ended by SIGABRT: GGML"):
        isolated(abort_on, Path("a b.gguf"))


def test_a_child_that_does_not_come_to_an_end_is_ended() -> None:
    with pytest.raises(LlamaAbortError, match=r"^x\.gguf: sleeping is not done after 0 s$"):
        isolated(take_long, Path("x.gguf"))
    with time_limit(0.0, "here"):  # not in a child: nothing is ended
        time.sleep(0.05)


def goes_on(path: Path) -> int:
    """Longer than the limit, with signs of life."""
    with time_limit(0.6, f"{path}: working") as limit:
        for _ in range(6):
            time.sleep(0.3)
            limit.start(0.6)
    time.sleep(0.9)  # the limit is over with the block
    return 7


def test_signs_of_life_renew_a_limit() -> None:
    assert isolated(goes_on, Path("x.gguf")) == 7


def decode_forever(path: Path) -> None:
    """A tap that does not return, in a batch that has got a moment."""
    with (
        pytest.MonkeyPatch.context() as patch,
        LlamaModel(path) as model,
        Session(model, 16, tapped=True) as session,
    ):
        patch.setattr(runtime_session, "decode_limit_s", lambda *_: 0.3)
        session.tap({b"l_out-0": lambda _: time.sleep(60)})
        session.decode(np.arange(8, dtype=np.int32), 0)


def test_a_batch_that_does_not_come_to_an_end_names_its_model() -> None:
    with pytest.raises(LlamaAbortError, match=r"tiny\.gguf: a batch of tokens is not done"):
        isolated(decode_forever, TINY)


def test_limits_grow_with_the_work() -> None:
    assert decode_limit_s(10**9, 10**9, 512) > 512 * model_limit_s(0) > 512 * text_limit_s(0)
    assert text_limit_s(10**6) > 2 * text_limit_s(10**4)
    assert quantize_limit_s(10**9) > 10 * quantize_limit_s(10**6)


def test_only_python_speaks_to_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    isolated(say)
    assert capfd.readouterr().err == "to the terminal\n"


def test_a_model_is_checked_in_a_child(tmp_path: Path) -> None:
    assert isolated(probe, [TINY]) is Sense.SOUND
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(TINY.read_bytes()[:100_000])
    with pytest.raises(LlamaError, match="cannot load"):
        isolated(probe, [broken])
