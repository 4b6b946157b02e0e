"""Numbers of bytes and parameters as users write them."""

from __future__ import annotations

import re

from ggprune.errors import UsageError

_NUMBER = re.compile(r"(?P<value>\d+(\.\d+)?)\s*(?P<unit>|[KMGTB]|[KMGT]B|[KMGT]iB)", re.IGNORECASE)
MAX_AMOUNT = 1e18  # bytes or parameters: a million times what models have
_POWERS = {"k": 1, "m": 2, "g": 3, "b": 3, "t": 4}


def parse_number(text: str, option: str, *, of_bytes: bool = False) -> int:
    """`4.2G`, `4.2GB`: decimal; `4GiB`: binary; `6.5B`: bytes of a size, billions of others.

    Raises UsageError that names the option.
    """
    match = _NUMBER.fullmatch(text.strip())
    if match is None or float(match["value"]) == 0:
        raise UsageError(f"{option} {text}: write a number like 4.2G, 900M or 4GiB")
    unit = match["unit"].lower()
    base = 1024 if unit.endswith("ib") else 1000
    is_bytes = unit == "b" and of_bytes
    power = _POWERS[unit[0]] if unit and not is_bytes else 0
    amount = float(match["value"]) * float(base) ** power
    if amount > MAX_AMOUNT:
        raise UsageError(f"{option} {text}: is more than {MAX_AMOUNT:.0e}")
    return round(amount)
