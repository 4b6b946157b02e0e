"""Can torch train this model here? Asked before hours of other work."""

from __future__ import annotations

from collections.abc import Sequence

import psutil
import torch
from transformers import AutoConfig
from transformers.utils import logging

from ggprune.errors import ArchitectureError
from ggprune.model.model import Model
from ggprune.training.loop import micro_batch, pick_device
from ggprune.training.memory import Outlook, estimate_bytes
from ggprune.training.options import TrainOptions
from ggprune.training.worker import usual_precision


def look(model: Model, keep: Sequence[int], options: TrainOptions) -> Outlook:
    """Raises ArchitectureError if transformers does not know the architecture, LlamaError if there
    is no such device.
    """
    device = pick_device(options.device)
    precision = options.precision or usual_precision(device)
    logging.set_verbosity_error()
    try:
        AutoConfig.from_pretrained(
            model.path.parent, gguf_file=model.path.name, local_files_only=True
        )
    except Exception as e:  # whatever another library raises for what it does not know
        raise ArchitectureError(
            f"{model.path}: transformers does not read GGUF files of {model.arch}, so it cannot be "
            "trained; ggprune heal without --train can repair it"
        ) from e
    needed = estimate_bytes(model, keep, options, precision, micro_batch(options, device))
    return Outlook(device.type, precision.value, needed * options.n_process, _free(device))


def _free(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    return int(psutil.virtual_memory().available)
