"""From logits and streams to numbers with their errors; texts and their chunks."""
