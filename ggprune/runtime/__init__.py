"""The only door to llama.cpp: load, decode, listen, isolate."""
