"""ggprune beside the tools that do the same, in one run: identical tensors, equal numbers, times.

    python benchmarks/peers.py                                 all sections, as they are by default
    python benchmarks/peers.py quantize|eval|bench [options]   one of them; --help explains it

llama-quantize, llama-imatrix, llama-perplexity and llama-bench must be on PATH; a section without
its tools says so.
"""

from __future__ import annotations

import importlib
import sys

SECTIONS = ("quantize", "eval", "bench")


def main() -> int:
    chosen = sys.argv[1:2]
    if chosen and chosen[0] not in SECTIONS:
        print(__doc__, file=sys.stderr)
        return 2
    sys.argv[1:2] = []
    failed = 0
    for name in chosen or SECTIONS:
        print(f"## {name}\n", flush=True)
        failed |= int(importlib.import_module(f"peers_{name}").main() or 0)
        print(flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
