"""ggprune beside the tools that do the same, one section per command.

python benchmarks/peers.py quantize|eval|bench [options of the section]
"""

from __future__ import annotations

import importlib
import importlib.util
import sys

SECTIONS = ("quantize", "eval", "bench")


def main() -> int:
    if len(sys.argv) < 2 or sys.argv[1] not in SECTIONS:
        print(__doc__, file=sys.stderr)
        return 2
    name = sys.argv.pop(1)
    if importlib.util.find_spec(f"peers_{name}") is None:
        print(f"{name}: skipped, there is no such section yet")
        return 0
    status = importlib.import_module(f"peers_{name}").main()
    return int(status or 0)


if __name__ == "__main__":
    sys.exit(main())
