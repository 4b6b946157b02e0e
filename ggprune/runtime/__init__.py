"""The only door to llama.cpp: load, decode, leave layers out in memory, quantize, isolate."""
