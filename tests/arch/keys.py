"""Which metadata keys llama.cpp reads of an architecture, asked of the installed library itself.

Every key that the library has a name for is stored in a type that no key has: reading one fails,
with its name and the type that was expected. It gets its own value back and the next one fails,
until the tensors, which such a file does not have, are looked for. No source is needed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ggprune.errors import LlamaError
from ggprune.model.gguf import read_gguf
from ggprune.model.metadata import Value, ValueType, array, scalar
from ggprune.runtime.library import ggml
from ggprune.runtime.session import LlamaModel
from tests.gguf_files import build, kv

Metadata = dict[str, Value]

# In the library as they stand in llama-arch.cpp; the ones without an architecture are of one alone.
_NAME = re.compile(rb"(?<=\0)%s(?:\.[a-z0-9_]+)+(?=\0)")
OTHER_NAMES = ("xielu.alpha_n", "xielu.alpha_p", "xielu.beta", "xielu.eps")

_TYPES = {
    "u32": ValueType.UINT32, "i32": ValueType.INT32, "f32": ValueType.FLOAT32,
    "bool": ValueType.BOOL, "str": ValueType.STRING, "u64": ValueType.UINT64,
}  # fmt: skip
_SCALAR = re.compile(r"key (\S+) has wrong type \w+ but expected type (\w+)")
_LENGTH = re.compile(r"key (\S+) has wrong array length; expected (\d+)")
_ELEMENT = re.compile(r"(\S+) is not a string/.* array")
_ABSENT = re.compile(r"array key not found in model: (\S+)")
_COMPLAINTS = (_SCALAR, _LENGTH, _ELEMENT, _ABSENT)
_ODD = ValueType.INT8


@dataclass(frozen=True)
class ReadKey:
    """What llama.cpp takes for one key."""

    scalar: ValueType | None = None  # None: no scalar is read
    is_array: bool = False  # an array is read, too
    length: int | None = None  # that it must have; None: any


@cache
def key_names() -> tuple[str, ...]:
    """Templates of all keys of architectures that the library has a name for."""
    path = Path(str(ggml("llama")._name))
    names = {match[0].decode() for match in _NAME.finditer(path.read_bytes())}
    found = {name.replace("%s", "{arch}") for name in names}
    assert "{arch}.block_count" in found, f"no names of keys in {path}"
    return (*sorted(found), *OTHER_NAMES)


def metadata_of(path: Path) -> Metadata:
    return dict(read_gguf(path).metadata)


def store(metadata: Mapping[str, Value], path: Path) -> Path:
    path.write_bytes(build([kv(key, v.type, bytes(v.raw)) for key, v in metadata.items()]))
    return path


def changed(metadata: Metadata, arch: str, changes: Mapping[str, Value | None]) -> Metadata:
    """With other values by template; None takes a key away."""
    by_key = {template.format(arch=arch): value for template, value in changes.items()}
    rest = {key: value for key, value in metadata.items() if key not in by_key}
    return {**rest, **{key: value for key, value in by_key.items() if value is not None}}


def keys_read(metadata: Metadata, folder: Path, known: Collection[str] = ()) -> dict[str, ReadKey]:
    """The keys of the architecture that are read from a file with this metadata, by template.

    Without those that are `known` to be.
    """
    arch = str(metadata["general.architecture"].decode())
    templates = {name.format(arch=arch): name for name in key_names() if name not in known}
    scalars = dict(_complaints(metadata, templates, scalar(_ODD, 1), folder))
    arrays = dict(_complaints(metadata, templates, array(_ODD, [1] * 3), folder))
    read = {}
    for key, template in templates.items():
        complaint, other = scalars.get(key, ""), arrays.get(key, "")
        kind, length = _SCALAR.search(complaint), _LENGTH.search(other)
        if complaint or other:
            read[template] = ReadKey(
                scalar=_TYPES.get(kind[2]) if kind else None,  # one more it can expect is "arr"
                is_array=bool(length or _ELEMENT.search(other) or _ABSENT.search(complaint)),
                length=int(length[2]) if length else None,
            )
    return read


def _complaints(
    metadata: Metadata, keys: Mapping[str, str], wrong: Value, folder: Path
) -> Iterator[tuple[str, str]]:
    """Every key that cannot be `wrong`, with what llama.cpp says about it."""
    unseen = dict.fromkeys(keys, wrong)
    while unseen:
        path = store({**metadata, **unseen}, folder / "keys.gguf")
        try:
            LlamaModel(path).close()
            return
        except LlamaError as e:
            said = str(e)
        match = next(filter(None, (pattern.search(said) for pattern in _COMPLAINTS)), None)
        if match is None or match[1] not in unseen:
            return
        del unseen[match[1]]
        yield match[1], said
