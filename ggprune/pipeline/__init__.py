"""The jobs that join the packages: each reads from top to bottom as what it does."""
