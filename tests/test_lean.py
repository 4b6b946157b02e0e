"""A package of which single modules were loaded is whole for whoever asks for more of it."""

from __future__ import annotations

import subprocess
import sys


def run(script: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_module_comes_without_its_package() -> None:
    run(
        "import sys, ggprune\n"
        "from gguf.constants import GGUFValueType\n"
        "assert 'gguf.gguf_reader' not in sys.modules\n"
        "assert not hasattr(sys.modules['gguf'], '__wrapped__')\n"
        "assert 'gguf.gguf_reader' not in sys.modules\n"
    )


def test_the_rest_of_it_is_there_when_it_is_asked_for() -> None:
    run(
        "import ggprune.model.model\n"
        "import gguf\n"
        "from gguf.constants import GGUFValueType\n"
        "assert gguf.GGUFValueType is GGUFValueType is gguf.constants.GGUFValueType\n"
        "from gguf import GGUFReader, dequantize\n"
        "assert gguf.GGUFReader is GGUFReader\n"
    )


def test_llama_cpp_is_whole_for_its_other_users() -> None:
    run(
        "from ggprune.runtime.library import llama\n"
        "bindings = llama()\n"
        "import llama_cpp\n"
        "assert llama_cpp.llama_cpp is bindings\n"
        "assert llama_cpp.Llama and llama_cpp.__version__\n"
        "assert llama_cpp.llama_backend_init is bindings.llama_backend_init\n"
    )


def test_a_package_that_was_imported_stays_as_it_is() -> None:
    run("import gguf\nreader = gguf.GGUFReader\nimport ggprune\nassert gguf.GGUFReader is reader\n")


def test_a_package_that_is_missing_stays_missing() -> None:
    run(
        "from ggprune.lean import import_lean\n"
        "import_lean('no_such_package')\n"
        "import sys\n"
        "assert 'no_such_package' not in sys.modules\n"
    )


def test_nothing_loads_dask_before_it_is_asked_for() -> None:
    run(
        "import ggprune, sys\n"
        "import ggprune.cli.rank, ggprune.cli.eval, ggprune.cli.auto, ggprune.cli.worker\n"
        "ggprune.rank, ggprune.evaluate, ggprune.auto\n"
        "assert not {'dask', 'distributed', 'tornado', 'cryptography'} & set(sys.modules)\n"
    )
