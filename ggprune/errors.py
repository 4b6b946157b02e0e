"""Everything that can go wrong, in one tree; the command line shows each as one line.

GGPruneError
├── UsageError              what was asked for makes no sense: a layer out of range (exit code 2)
├── FormatError             the file is not a GGUF that can be read: damaged, v1, big-endian
├── ArchitectureError       removing these layers from this architecture is not known to be exact
├── OutputError             the output cannot be written: it exists, no space, is the input
├── VerificationError       the written file is not what the plan says; it was not kept
├── LlamaError              llama.cpp could not load, decode or quantize
│   ├── LlamaAbortError     llama.cpp aborted the process it ran in
│   └── NonFiniteError      a model computes what is not finite
├── DataError               a text or scores file is too short, unreadable or not for this model
└── MissingExtraError       an optional package is not installed
"""


class GGPruneError(Exception):
    """Base of all errors that are shown to the user as one line."""

    exit_code = 1


class UsageError(GGPruneError):
    """What was asked for makes no sense for this model."""

    exit_code = 2


class FormatError(GGPruneError):
    """The file is not a GGUF file that can be read."""


class ArchitectureError(GGPruneError):
    """Removing these layers from this architecture is not known to be exact."""


class OutputError(GGPruneError):
    """The output cannot be written."""


class VerificationError(GGPruneError):
    """The written file differs from what the plan says."""


class LlamaError(GGPruneError):
    """llama.cpp could not load, decode or quantize."""


class LlamaAbortError(LlamaError):
    """llama.cpp aborted the process it ran in."""


class NonFiniteError(LlamaError):
    """A model computes what is not finite."""


class DataError(GGPruneError):
    """A text, plan or scores file cannot be used."""


class MissingExtraError(GGPruneError):
    """An optional package is not installed."""
