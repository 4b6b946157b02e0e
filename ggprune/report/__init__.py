"""Results to blocks, blocks to what a reader sees: terminal, Markdown, pictures.

Each kind of result has a module here, and its `blocks` says what a reader is told of it. Modules
are imported one by one, so that describing a file's header loads nothing that computes.
"""
