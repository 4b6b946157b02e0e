"""`python -m ggprune`."""

from ggprune.cli import main

if __name__ == "__main__":
    main()
