"""Results to tables, JSON, Markdown and pictures."""
