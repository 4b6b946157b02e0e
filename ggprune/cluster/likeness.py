"""Do workers compute the same bits? Who does not, and how far it is off."""

from __future__ import annotations

import math
from collections.abc import Callable

from ggprune.cluster.members import Member
from ggprune.metrics.estimates import Float32
from ggprune.metrics.logits import base_logits


class Likeness:
    """All are compared with the first one."""

    def __init__(self, probed: Callable[[str], Float32]) -> None:
        """`probed` has the worker of an address compute the probe's logits."""
        self._probed = probed
        self._first: Member | None = None
        self.distance: dict[str, float] = {}  # by bits: KLD from the first one's

    def objection(self, member: Member) -> str | None:
        """What is different about a worker, if anything is."""
        self._first = self._first or member
        first, mine = self._first.info, member.info
        if mine.bits == first.bits:
            return None
        if mine.bits not in self.distance:
            self.distance[mine.bits] = self._measured(self._first, member)
        kld = self.distance[mine.bits]
        apart = "" if math.isnan(kld) else f", a KLD of {kld:.1e} from it"
        what = f"{mine.backend} on {mine.device}" if mine.device != first.device else "other bits"
        return (
            f"{member.name} computes differently from {self._first.name} ({what}: "
            f"{mine.bits[:8]}..., not {first.bits[:8]}...{apart})"
        )

    def _measured(self, first: Member, member: Member) -> float:
        """KL divergence of the whole model on the probe's last tokens; NaN if one is gone."""
        try:
            theirs, mine = (self._probed(each.address) for each in (first, member))
        except Exception:  # gone, or it cannot: how far they are apart is not known
            return math.nan
        targets = theirs.argmax(axis=1)
        # Rounding may leave it below zero where next to nothing differs.
        return abs(float(base_logits(theirs, targets).compare(mine, targets).kld.mean()))
