"""Models that llama.cpp may abort on, or compute nonsense with, given to every command."""
