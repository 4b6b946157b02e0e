"""What a GGUF file is: memory-mapped view, raw metadata values, split files, layer names."""

from ggprune.model.gguf import GGUFFile, Tensor
from ggprune.model.metadata import Value, ValueType
from ggprune.model.model import Model, open_model

__all__ = ["GGUFFile", "Model", "Tensor", "Value", "ValueType", "open_model"]
