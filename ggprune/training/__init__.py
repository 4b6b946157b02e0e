"""Training a pruned model back to the original with torch: an extra, in a process of its own."""
