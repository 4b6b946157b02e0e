"""What a model's routers do on a text: which experts they choose, with which gates, to what effect.

Read while llama.cpp computes, by the names that `build_moe_ffn` in llama-graph.cpp gives: of the
experts that a token is sent to, their gates, and their outputs times the gates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ggprune.errors import ArchitectureError
from ggprune.metrics.chunks import make_chunks
from ggprune.metrics.estimates import Float32, Float64
from ggprune.metrics.text import Text
from ggprune.model.model import Model
from ggprune.progress import SILENT, Progress
from ggprune.runtime.compute import Compute
from ggprune.runtime.nodes import COMPUTE, StreamNode, flags_of, read_indices, tensor_name
from ggprune.runtime.session import LlamaModel, Session
from ggprune.scoring.measure import MeasureOptions

CHOSEN = "ffn_moe_topk"
# The last of these that a graph has are the gates that it multiplies with.
GATES = (
    "ffn_moe_weights", "ffn_moe_weights_softmax", "ffn_moe_weights_norm", "ffn_moe_weights_scaled",
)  # fmt: skip
OUTPUTS = "ffn_moe_weighted"


@dataclass
class RouterStatistics:
    """One layer's experts, summed over tokens; all (n_expert,)."""

    n_token: Float64  # that were sent to it
    gates: Float64
    outputs: Float64  # norms of gate times output
    n_all: int = 0  # tokens of the text

    @property
    def reap(self) -> Float64:
        return self.outputs / np.maximum(self.n_token, 1)

    @property
    def frequency(self) -> Float64:
        return self.n_token / max(self.n_all, 1)

    @property
    def gate(self) -> Float64:
        return self.gates / np.maximum(self.n_token, 1)


def router_statistics(
    model: Model, text: Text, options: MeasureOptions, layers: Sequence[int], n_expert: int,
    progress: Progress = SILENT,
) -> dict[int, RouterStatistics]:  # fmt: skip
    """Of the layers, over all tokens of the text's chunks.

    Raises ArchitectureError if the graph does not show what a router chose.
    """
    compute, n_ctx = options.compute or Compute(), options.n_ctx
    whole = replace(compute, n_batch=n_ctx, n_ubatch=n_ctx)
    found = {n: RouterStatistics(*np.zeros((3, n_expert))) for n in layers}
    with (
        LlamaModel(model.path, compute) as loaded,
        Session(loaded, n_ctx, compute=whole, tapped=True) as session,
    ):
        chunks = make_chunks(text, loaded.tokenize, n_ctx, options.n_chunk)
        for i, chunk in enumerate(chunks):
            reader = _RouterReader(found)
            session.run(reader)
            session.chunk_logits(chunk.tokens[None, :], n_ctx)
            missing = next((n for n in layers if n not in reader.seen), None)
            if missing is not None:
                raise ArchitectureError(
                    f"{model.path}: llama.cpp's graph does not show what the router of layer "
                    f"{missing} chose"
                )
            progress.step(i + 1, len(chunks))
    return found


class _RouterReader:
    """Adds what the routers do in one pass."""

    def __init__(self, found: Mapping[int, RouterStatistics]) -> None:
        self.found, self.seen = found, set[int]()
        self._chosen: dict[int, NDArray[np.int64]] = {}
        self._gates: dict[int, Float32] = {}
        names = (CHOSEN, *GATES, OUTPUTS)
        self._what = {f"{name}-{n}".encode(): (name, n) for name in names for n in found}

    def ask(self, pointer: int) -> bool:
        flags_of(pointer).value |= COMPUTE
        return tensor_name(pointer) in self._what

    def computed(self, pointer: int) -> None:
        name, layer = self._what[tensor_name(pointer)]
        if name == CHOSEN:
            self._chosen[layer] = read_indices(pointer).astype(np.int64)  # (n_token, n_used)
        elif name in GATES:
            self._gates[layer] = StreamNode(pointer).read()
        elif layer in self._chosen and layer in self._gates:
            self._add(layer, StreamNode(pointer).read())

    def _add(self, layer: int, outputs: Float32) -> None:
        """outputs: (n_token * n_used, n_embd)."""
        chosen, found = self._chosen[layer], self.found[layer]
        n_expert = len(found.n_token)
        norms = np.linalg.norm(outputs.astype(np.float64), axis=1)
        gates = self._gates[layer].reshape(chosen.shape).astype(np.float64)
        found.outputs += np.bincount(chosen.ravel(), norms, n_expert)
        found.gates += np.bincount(chosen.ravel(), gates.ravel(), n_expert)
        found.n_token += np.bincount(chosen.ravel(), minlength=n_expert)
        found.n_all += len(chosen)
        self.seen.add(layer)
