"""What can be asked of llama.cpp's quantizer, as values: types, patterns, metadata overrides.

The names are those of tools/quantize/quantize.cpp. Nothing here knows a model or loads a library.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

from ggprune.errors import DataError, UsageError
from ggprune.files.reading import name_of, read_utf8

COPY = "COPY"

# name -> llama_ftype
FILE_TYPES: dict[str, int] = {
    "F32": 0, "F16": 1, "BF16": 32,
    "Q4_0": 2, "Q4_1": 3, "Q5_0": 8, "Q5_1": 9, "Q8_0": 7,
    "Q2_K": 10, "Q2_K_S": 21,
    "Q3_K_S": 11, "Q3_K_M": 12, "Q3_K_L": 13, "Q3_K": 12,
    "Q4_K_S": 14, "Q4_K_M": 15, "Q4_K": 15,
    "Q5_K_S": 16, "Q5_K_M": 17, "Q5_K": 17, "Q6_K": 18,
    "IQ1_S": 24, "IQ1_M": 31,
    "IQ2_XXS": 19, "IQ2_XS": 20, "IQ2_S": 28, "IQ2_M": 29,
    "IQ3_XXS": 23, "IQ3_XS": 22, "IQ3_S": 26, "IQ3_M": 27,
    "IQ4_NL": 25, "IQ4_XS": 30,
    "TQ1_0": 36, "TQ2_0": 37, "MXFP4_MOE": 38, "Q1_0": 40, "Q2_0": 41,
    COPY: 0,
}  # fmt: skip
UNMIXED = ("F32", "F16", "BF16", COPY)  # the quantizer looks at no pattern for these

# Tensor types that ggml_quantize_chunk (ggml/src/ggml.c) can make; it aborts at all others.
MADE_TYPES = (
    "F32", "F16", "BF16", "Q1_0", "Q2_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "MXFP4", "NVFP4",
    "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "TQ1_0", "TQ2_0", "IQ1_S", "IQ1_M", "IQ2_XXS",
    "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS",
)  # fmt: skip

MAX_TEXT_BYTES = 127  # llama_model_kv_override: char[128], for keys and for strings
_OVERRIDE = re.compile(r"(?P<key>[^=]+)=(?P<type>int|float|bool|str):(?P<value>.*)", re.DOTALL)
_DIGITS = re.compile(r"[0-9]{1,10}")
# The layout of the file, which the quantizer decides alone.
_FIXED_KEYS = ("general.alignment", "general.architecture", "split.")


@dataclass(frozen=True)
class TensorTypeRule:
    """Tensors whose name contains a match of `pattern` (std::regex) get `type`."""

    pattern: str
    type: str


@dataclass(frozen=True)
class KvOverride:
    """A metadata value of the result. Whole numbers are stored as u32, fractions as f32."""

    key: str
    value: bool | int | float | str


@dataclass(frozen=True)
class QuantizeOptions:
    """What llama-quantize offers on its command line, and more for pruned models."""

    type: str
    _: KW_ONLY
    allow_requantize: bool = False
    pure: bool = False
    leave_output_tensor: bool = False
    n_threads: int | None = None
    output_tensor_type: str | None = None
    token_embedding_type: str | None = None
    tensor_types: tuple[TensorTypeRule, ...] = ()  # the first one that matches counts
    new_numbers: bool = False  # patterns see the pruned model's layer numbers
    include_weights: tuple[str, ...] = ()  # use only entries of the imatrix with these in the name
    exclude_weights: tuple[str, ...] = ()
    overrides: tuple[KvOverride, ...] = ()
    bump_interface: str | None = None  # least type of the blocks on both sides of a cut
    max_buffer_mib: int | None = None

    @property
    def copies_all(self) -> bool:
        """Is nothing to be changed at all?"""
        return self.type == COPY and not self.overrides

    def __post_init__(self) -> None:
        """Raises UsageError for options that contradict each other or would be ignored."""
        if self.include_weights and self.exclude_weights:
            raise UsageError("--include-weights or --exclude-weights, not both")
        ignored = {"--tensor-type": self.tensor_types, "--bump-interface": self.bump_interface}
        for option, given in ignored.items():
            if given and self.type in UNMIXED:
                raise UsageError(f"{option} has no effect on {self.type}, which has no mixture")


def parse_type(text: str) -> str:
    """The official name of a type or of its number, case ignored. Raises UsageError."""
    name = text.upper()
    by_number = {str(number): n for n, number in reversed(FILE_TYPES.items())}
    name = by_number.get(name, name)
    if name not in FILE_TYPES:
        raise UsageError(f"'{text}' is not a quantization type: {', '.join(FILE_TYPES)}")
    return name


def is_type(text: str) -> bool:
    try:
        return bool(parse_type(text))
    except UsageError:
        return False


def parse_tensor_type(text: str) -> str:
    """The name of a type that single tensors can have, case ignored. Raises UsageError."""
    name = text.upper()
    if name not in MADE_TYPES:
        raise UsageError(f"'{text}' is not a type of tensors: {', '.join(MADE_TYPES)}")
    return name


def parse_rule(text: str) -> TensorTypeRule:
    """`attn_v=q8_0`. The pattern is put into lower case, as llama-quantize does."""
    pattern, equals, name = text.partition("=")
    if not (pattern and equals and name):
        raise UsageError(f"--tensor-type {text}: write REGEX=TYPE, such as attn_v=q8_0")
    return TensorTypeRule(pattern.lower(), parse_tensor_type(name))


def read_rules(path: Path) -> tuple[TensorTypeRule, ...]:
    """The rules of a --tensor-type-file, separated by spaces or line breaks."""
    words = read_utf8(path).split()
    if not words:
        raise DataError(f"{name_of(path)}: has no REGEX=TYPE in it")
    try:
        return tuple(parse_rule(word) for word in words)
    except UsageError as e:
        raise DataError(f"{name_of(path)}: {str(e).removeprefix('--tensor-type ')}") from e


def parse_overrides(texts: Iterable[str]) -> tuple[KvOverride, ...]:
    """`KEY=TYPE:VALUE` with int, float, bool or str.

    Raises UsageError for what the quantizer would change on the way: it stores the amount of a
    negative number, cuts long texts, and takes a number with a slip in it as far as it goes.
    """
    return tuple(map(_parse_override, texts))


def _parse_override(text: str) -> KvOverride:
    match = _OVERRIDE.fullmatch(text)
    if match is None:
        raise UsageError(f"--override-kv {text}: write KEY=TYPE:VALUE, TYPE int, float, bool, str")
    key, kind, value = match.group("key", "type", "value")
    if key.startswith(_FIXED_KEYS):
        raise UsageError(f"--override-kv {text}: {key} follows from the file and cannot be set")
    for what, part in (("key", key), ("str", value if kind == "str" else "")):
        if len(part.encode("utf-8", "surrogateescape")) > MAX_TEXT_BYTES:
            raise UsageError(f"--override-kv {text}: a {what} has at most {MAX_TEXT_BYTES} bytes")
    if kind == "str":
        return KvOverride(key, value)
    if kind == "bool":
        if value not in ("true", "false"):
            raise UsageError(f"--override-kv {text}: a bool is true or false")
        return KvOverride(key, value == "true")
    if kind == "int":
        if not (_DIGITS.fullmatch(value) and int(value) < 1 << 32):
            raise UsageError(f"--override-kv {text}: an int is stored as u32: 0 to {(1 << 32) - 1}")
        return KvOverride(key, int(value))
    with contextlib.suppress(ValueError):
        if abs(float(value)) < 3.4028235e38:  # the largest f32; NaN fails as well
            return KvOverride(key, float(value))
    raise UsageError(f"--override-kv {text}: '{value}' is not a number that fits into f32")
