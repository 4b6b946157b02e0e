"""Speed, latency and memory, and what the memory's bandwidth promises."""
