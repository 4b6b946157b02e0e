"""What proves a file while it is written, asked about a file that is there."""

from __future__ import annotations

from pathlib import Path

from ggprune.model.model import Model, open_model
from ggprune.surgery.contents import contents_of
from ggprune.surgery.plan import PrunePlan
from ggprune.surgery.verify import ByteComparison, verify_structure


def prove(model: Model, plan: PrunePlan, path: Path) -> None:
    """Raises VerificationError where the file is not what the plan makes of the model."""
    written, contents = open_model(path), contents_of(model, plan)
    verify_structure(contents, written)
    with ByteComparison(written) as comparison:
        for tensor in contents.tensors:
            comparison.add(tensor)
        comparison.finish()
