"""Sets ggprune up in a virtual environment: `make` calls it, `python -m setup` does without make.

An old Python has to read this package in order to say that it is too old: it is written for 3.6.
"""
