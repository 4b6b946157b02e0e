"""See `table`."""

import sys

from tests.arch.table import main

sys.exit(main(sys.argv[1:]))
