"""What a GGUF file is: memory-mapped view, raw metadata values, split files, layer names."""
