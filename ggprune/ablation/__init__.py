"""Leaving parts of a model out while it computes, through its graph."""
