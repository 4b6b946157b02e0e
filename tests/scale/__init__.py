"""Many processes measure as one: `make test-scale`. Starts schedulers and workers on 127.0.0.1."""
