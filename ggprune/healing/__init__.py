"""Repairing what is left of a pruned model."""
