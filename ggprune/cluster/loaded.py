"""What loads Dask: whoever imports this needs the extra."""

from ggprune.cluster import connect, serve

__all__ = ["connect", "serve"]
