"""`python -m tests.scale.kills [N]`: so many random kills and joins, during searches."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.scale import jobs
from tests.scale.site import numbers_of
from tests.scale.test_faults import kills_and_joins


def main() -> None:
    n_event = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    with tempfile.TemporaryDirectory() as folder:
        n_search = kills_and_joins(Path(folder), numbers_of(jobs.race(None)), n_event)
    print(f"{n_event} kills and joins in {n_search} searches: every document the same")


if __name__ == "__main__":
    main()
