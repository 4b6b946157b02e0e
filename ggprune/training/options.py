"""What is asked of training, and what came of it. Data only; knows nothing of torch."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated

from ggprune.errors import UsageError
from ggprune.files.keys import LEFT_OUT, Key
from ggprune.metrics.estimates import Estimate

PROOF_KLD = 5e-3  # nats a token between torch and llama.cpp, the most that still proves a model
PROOF_SHARE = 0.01  # ... of a pruned model also this share of its divergence from the original
LORA_RANK, LORA_LR, FULL_LR = 16, 5e-4, 1e-4
FAILED = "error"  # a file in which a process of several leaves what it raised
PATIENCE = 5  # evaluations without a gain that end a run
FEW, MANY = 5, 20  # evaluations in one run, by how long it is
MAX_JUDGED = 16  # rows set aside that a run is evaluated on


class Loss(str, Enum):
    """What a step lowers."""

    KD = "kd"  # KL divergence from the original's probabilities
    CE = "ce"  # cross entropy with the tokens that came
    BOTH = "kd+ce"


class Schedule(str, Enum):
    """How the learning rate falls behind the warm-up; names of transformers.get_scheduler."""

    COSINE = "cosine"
    LINEAR = "linear"
    CONSTANT = "constant_with_warmup"


class Device(str, Enum):
    """Where torch computes."""

    AUTO = "auto"  # cuda, else mps, else cpu
    CPU = "cpu"
    CUDA = "cuda"
    MPS = "mps"


class Precision(str, Enum):
    """What frozen weights are held in, and products are made in."""

    F32 = "f32"
    BF16 = "bf16"
    F16 = "f16"


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """How a pruned model is trained."""

    loss: Loss = Loss.KD
    ce_weight: float = 0.5  # of cross entropy beside the divergence, with both
    lora: int | None = LORA_RANK  # rank of adapters on all projections; None: all weights
    lora_alpha: float | None = None  # what adapters are scaled by, over the rank; None: the rank
    n_token: int | None = None  # to train on; None: by `n_epoch`
    n_epoch: float = 1.0  # how often all of the text
    n_ctx: int = 512
    batch: int = 2048  # tokens a step
    micro_batch: int | None = None  # rows computed at once; None: 1, or 4 on a GPU
    lr: float | None = None  # None: LORA_LR or FULL_LR
    min_lr: float = 0.0  # the cosine's end, as a share of `lr`
    warmup: float = 0.05  # share of the steps
    schedule: Schedule = Schedule.COSINE
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)  # of AdamW
    clip: float = 1.0  # largest norm of a step's gradient
    seed: int = 0
    n_seed: int = 1  # runs with seeds that follow each other; the best is taken
    answers_only: bool = False
    device: Device = Device.AUTO
    precision: Precision | None = None  # None: f32, on a GPU bf16
    checkpointing: bool = False  # compute activations twice instead of keeping them
    n_process: int = 1
    n_thread: int | None = None  # of each process; None: what torch takes

    def __post_init__(self) -> None:
        if self.batch < self.n_ctx:
            raise UsageError(
                f"--batch {self.batch} tokens a step hold no row of {self.n_ctx} (-c): a larger "
                "--batch or a smaller -c"
            )
        if self.rows_per_step % self.n_process:
            raise UsageError(
                f"--batch: {self.rows_per_step} rows of {self.n_ctx} a step cannot be shared "
                f"between {self.n_process} processes"
            )

    @property
    def rows_per_step(self) -> int:
        return self.batch // self.n_ctx

    @property
    def peak_lr(self) -> float:
        """The largest learning rate."""
        return self.lr if self.lr is not None else FULL_LR if self.lora is None else LORA_LR

    @property
    def alpha(self) -> float:
        return float(self.lora or 0) if self.lora_alpha is None else self.lora_alpha


@dataclass(frozen=True, kw_only=True)
class Point:
    """A training run at one moment."""

    step: int
    n_token: Annotated[int, "trained on so far"]
    loss: Annotated[float | None, "mean of the steps since the point before; null at the start"]
    kld: Annotated[float, "from the original, nats, on rows set aside"]
    ppl: Annotated[float, "on rows set aside"]
    tok_per_s: float | None


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run of one seed."""

    seed: int
    points: tuple[Point, ...]
    best: Annotated[Point, "whose weights the run gives"]
    is_early: Annotated[bool, "ended before its tokens, because nothing was gained any more"]


@dataclass(frozen=True)
class Proof:
    """Does torch compute what llama.cpp does? Mean KL divergence of a row's tokens."""

    original: Annotated[float, "of the original model"]
    pruned: Annotated[float, "of the model to be trained"]


@dataclass(frozen=True)
class Place:
    """An array of 32-bit floats in a file."""

    offset: int
    shape: tuple[int, ...]  # rows first


@dataclass(frozen=True, kw_only=True)
class Changed:
    """A tensor of the pruned model that training changed, in its own layout.

    Either all of its values, or the factors of what is added: scale * B A.
    """

    tensor: str
    values: Place | None = None  # (n_out, n_in), or (n,)
    a: Place | None = None  # (rank, n_in)
    b: Place | None = None  # (n_out, rank)
    scale: float = 1.0
    importance: Place | None = None  # (n_in,) mean squared inputs


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What training did; by torch."""

    proof: Proof
    n_trainable: Annotated[int, "parameters that are trained"]
    n_train_row: Annotated[int, "rows of the text to train on"]
    n_aside_row: Annotated[int, "rows that are set aside, never trained on"]
    runs: tuple[Run, ...]
    changed: Annotated[tuple[Changed, ...], LEFT_OUT] = ()
    time_s: float
    peak_bytes: Annotated[int | None, Key(optional=True), "most memory of the GPU"] = None

    @property
    def best(self) -> Run:
        return min(self.runs, key=lambda run: run.best.kld)


@dataclass(frozen=True, kw_only=True)
class Task:
    """All that a training process needs to know. Everything in it can be pickled."""

    base: Path  # one file
    pruned: Path  # one file
    keep: tuple[int, ...]  # layers of the original
    n_layer: int  # of the original
    options: TrainOptions
    rows: Path  # .npz: train, train_learned, aside, aside_learned; logits of a row by llama.cpp
    folder: Path  # of checkpoints
    out: Path  # what is changed goes here
    result: Path
    log: Path | None = None  # JSON lines


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """The written model, by llama.cpp, on rows set aside."""

    kld: Annotated[Estimate, "from the original model, nats"]
    ppl: Estimate
