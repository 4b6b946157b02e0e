"""The disk: outputs that appear when they are complete, copies by the kernel, reading."""
