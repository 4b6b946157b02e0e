"""Requantizing through llama.cpp's quantizer: what can be asked, what it would do, doing it."""
