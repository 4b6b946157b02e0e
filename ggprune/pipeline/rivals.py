"""What a pruned model stands beside: quantizations of the whole model."""

from __future__ import annotations

from dataclasses import replace

from ggprune.pipeline.job import Job, for_quantizer, stand_in
from ggprune.quantize.forecast import forecast_each, quantized_contents
from ggprune.quantize.options import QuantizeOptions
from ggprune.runtime.isolate import isolated
from ggprune.surgery.contents import unchanged_contents
from ggprune.surgery.layout import lay_out

# Types for the comparison at equal bytes, largest first; all work without an imatrix.
LADDER = (
    "BF16", "F16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q4_K_M", "Q4_K_S", "IQ4_XS",
    "Q3_K_L", "Q3_K_M", "Q3_K_S", "Q2_K",
)  # fmt: skip


def rivals_of(job: Job) -> list[QuantizeOptions]:
    """Quantizations without pruning: the chosen type, and the best one that is no larger."""
    model, chosen = job.model, job.quantize
    rivals = [chosen] if chosen else []
    n_threads = chosen.n_threads if chosen else None
    ladder = [QuantizeOptions(t, allow_requantize=True, n_threads=n_threads) for t in LADDER]
    whole = for_quantizer(unchanged_contents(model))
    with stand_in(replace(job, plan=None, replaced=None, quantize=ladder[0]), whole) as file:
        forecasts = isolated(forecast_each, file, ladder, job.imatrix)
    sizes = {
        expected.options: lay_out(model, quantized_contents(whole, expected)).size_bytes
        for expected in forecasts
        if expected is not None
    }
    fitting = [options for options, size in sizes.items() if size <= job.out.stat().st_size]
    best = max(fitting, key=lambda options: sizes[options], default=None)
    if best is None or (chosen is not None and chosen.type == best.type):
        return rivals
    return [*rivals, best]
