"""One typed configuration of a run: YAML files, dotted overrides, --help and --print_config (jsonargparse)."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from data_pipeline import Packing, UserError, user_path
from maha_model import ConfigError, ModelConfig
from maha_model.parallel import ContextSplit, part_sizes
from pretrain.deepspeed_config import read_deepspeed_config, use_bfloat16
from pretrain.parsing import parse_dataclass

__all__ = [
    "OptimizerConfig",
    "RunConfig",
    "TrackingConfig",
    "WarmupConfig",
    "parse_config",
    "read_deepspeed_config",
    "use_bfloat16",
]


@dataclass(kw_only=True)
class OptimizerConfig:
    """AdamW or Muon, and the learning rate: linear warm-up, then a schedule."""

    name: Literal["adamw", "muon"] = "adamw"
    """`muon`: hidden matrices are updated by Muon (torch.optim.Muon with `match_rms_adamw`, so that the rate and the
    weight decay are those of AdamW), embeddings, vectors and convolution taps by AdamW."""
    lr: float = 3e-4
    """Peak learning rate."""
    schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    """The rate after the warm-up: half a cosine or a line down to its least at the last step, the peak to the end, or
    the peak up to a decay over the last `decay_steps` (warm-up, stable, decay)."""
    warmup_steps: int = 100
    """Steps of linear warm-up from 0."""
    decay_steps: int = 0
    """Of `wsd`: the last steps, in which the rate falls as 1 - sqrt to its least. 0: it stays at the peak, and a later
    start can add the decay: as many `steps` more, and their number here."""
    min_lr_ratio: float = 0.1
    """Learning rate at the last step, as a share of the peak; of no account while the rate is constant."""
    beta1: float = 0.9
    """Decay of the first moment."""
    beta2: float = 0.95
    """Decay of the second moment."""
    momentum: float = 0.95
    """Of Muon, in Nesterov's form."""
    eps: float = 1e-8
    """Added to the root of the second moment."""
    weight_decay: float = 0.1
    """Decoupled weight decay of matrices; norms, biases and other vectors have none."""
    grad_clip: float = 1.0
    """Largest global gradient norm; 0 does not clip."""

    def __post_init__(self) -> None:
        for name in ("warmup_steps", "decay_steps", "weight_decay", "grad_clip"):
            if getattr(self, name) < 0:
                raise ConfigError(f"optimizer.{name} is {getattr(self, name)}; it must not be negative")
        for name in ("momentum", "beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"optimizer.{name} is {getattr(self, name)}; it must be at least 0 and below 1")
        for name in ("lr", "eps"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"optimizer.{name} is {getattr(self, name)}; it must be positive")
        if not 0 <= self.min_lr_ratio <= 1:
            raise ConfigError(f"optimizer.min_lr_ratio is {self.min_lr_ratio}; it must be from 0 to 1")
        if self.decay_steps and self.schedule != "wsd":
            raise ConfigError(
                f"optimizer.decay_steps is for the schedule wsd, not for {self.schedule}; leave it out, or give "
                "--optimizer.schedule wsd"
            )


@dataclass(kw_only=True)
class TrackingConfig:
    """Where points go besides metrics.jsonl and MLflow."""

    tensorboard: bool = False
    """Write RUN/tensorboard, event files for TensorBoard; needs the package tensorboard."""


@dataclass(kw_only=True)
class WarmupConfig:
    """A size that grows over the first steps."""

    start: int = 0
    """Its value in the first steps; must be given with `steps`."""
    steps: int = 0
    """Optimiser steps until it has its full value; 0: it has from the first."""

    def check(self, name: str, full: int, full_name: str) -> None:
        """Raises ConfigError unless `full` is a multiple of a start that is there if there are steps."""
        if self.steps < 0 or self.start < 0:
            raise ConfigError(f"{name}.start and {name}.steps must not be negative")
        if bool(self.steps) != bool(self.start):
            raise ConfigError(f"{name} needs both start and steps, or neither; give --{name}.start and --{name}.steps")
        if self.start and (full % self.start or full == self.start):
            raise ConfigError(f"{name}.start is {self.start}; it must divide {full_name} {full} and be less")


@dataclass(kw_only=True)
class RunConfig:
    """Everything that a training run depends on."""

    model: ModelConfig = field(default_factory=ModelConfig)
    """The model; its context_length is the length of the training windows."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """The optimiser and its schedule."""
    data: Path = Path("data/sample")
    """A data set made by data_pipeline.prepare, or a YAML file that mixes some (docs/data.md)."""
    packing: Packing = "stream"
    """What windows are made of: `stream`, the documents one after the other, cut every `context_length` tokens; or
    `documents`, whole ones where they fit, by best fit, padded. Of evaluation windows too."""
    document_mask: bool = False
    """No token attends to another document's: every document of a window is as if it were alone in it."""
    out: Path = Path("runs/run")
    """Folder of the run: checkpoints, metrics.jsonl, config.yaml. The default MLflow store lies beside it."""
    steps: int = 1000
    """Optimiser steps in all, resumed ones included."""
    global_batch_size: int = 8
    """Windows per optimiser step over all processes; the gradient accumulation follows from it and the next field."""
    micro_batch_size: int = 8
    """Windows per process and forward pass; with context_parallel per group of processes that share windows."""
    batch_warmup: WarmupConfig = field(default_factory=WarmupConfig)
    """Windows per optimiser step that grow from `start` to `global_batch_size`, by `start` at a time."""
    length_warmup: WarmupConfig = field(default_factory=WarmupConfig)
    """Windows cut into pieces of `start` tokens, which double up to `context_length`; the tokens of a step stay."""
    context_parallel: int = 1
    """P neighbouring processes share each window, every one with a contiguous part of it: for contexts that do not fit
    on one. Must divide the number of processes."""
    seed: int = 0
    """Of the initial weights, the sample order and dropout."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 with float32 master weights on a GPU that has it, else float32."""
    deepspeed: Path = Path("ds_configs/zero1.json")
    """DeepSpeed configuration: ZeRO and offload. Batch sizes, clipping and precision are set here, not there."""
    activation_checkpointing: Literal["none", "block", "selective"] = "none"
    """What is recomputed in the backward pass; selective recomputes attention and aggregation only."""
    compile: bool = False
    """Compile the model with torch.compile: faster steps after a start that is a minute or so longer."""
    eval_interval: int = 100
    """Steps between evaluations on the validation split; the last step is always evaluated."""
    eval_windows: int = 64
    """Validation windows per evaluation, spread evenly; the same for every world size."""
    log_interval: int = 10
    """Steps between progress lines and MLflow points; metrics.jsonl has every step."""
    checkpoint_interval: int = 100
    """Steps between checkpoints; the last step always has one."""
    keep_checkpoints: int = 2
    """How many of the newest checkpoints stay on disk."""
    keep_every: int = 0
    """Checkpoints of steps that are multiples of this stay for good; 0 keeps none besides the newest."""
    resume: str = "none"
    """none: start a new run; auto: continue from the newest whole checkpoint in `out`, or start; or a checkpoint."""
    init_from: str = "none"
    """A run, a checkpoint or an export whose weights a new run starts from, with a fresh optimiser, schedule and order
    of samples. context_length, rope_base, dropout and num_scales (more) may be other than its model's. Once the run has
    a checkpoint of its own, `resume: auto` continues that."""
    skip_batches: int = 0
    """Global batches to pass over at the start, less those that the run has passed over before: so the same command
    skips them once. The error that ends a run at bad batches gives the number."""
    experiment: str = "maha"
    """MLflow experiment."""
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    """Where points go besides."""
    max_skipped_steps: int = 5
    """Steps in a row that may be skipped for a NaN or infinite loss or gradient; one more ends the run."""
    spike_threshold: float = 6.0
    """A loss this many standard deviations above the mean of the last `spike_window` steps is a spike; 0: none is."""
    spike_window: int = 128
    """Steps whose losses a new one is compared with."""
    on_spike: Literal["log", "rollback"] = "log"
    """rollback: go back to the last checkpoint and on with the data after the spike."""
    max_rollbacks: int = 3
    """Rollbacks to one and the same checkpoint; one more ends the run."""
    profile: str = ""
    """FIRST:LAST, such as 20:25: steps of which RUN/profile gets a trace and a table of the time of each part."""
    step_timeout: float = 1800.0
    """Seconds that a step, an evaluation or a collective may take; then all stacks are printed and the run ends."""
    peer_timeout: float = 60.0
    """Seconds without a heartbeat of a process after which the others end, its rank named in their message."""

    def __post_init__(self) -> None:
        self.data, self.out = user_path(self.data), user_path(self.out)
        for name in ("steps", "global_batch_size", "micro_batch_size", "context_parallel", "eval_interval",
                     "eval_windows", "log_interval", "checkpoint_interval", "keep_checkpoints"):  # fmt: skip
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("keep_every", "skip_batches", "max_skipped_steps", "spike_threshold", "max_rollbacks"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must not be negative")
        self._check_warmups()
        if self.spike_window < 2:
            raise ConfigError(f"spike_window is {self.spike_window}; a deviation needs at least 2 steps")
        for name in ("step_timeout", "peer_timeout"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be positive")
        for name in ("resume", "init_from"):
            if not getattr(self, name).strip():
                raise ConfigError(f"{name} is empty; give a checkpoint or none")
        if self.init_from != "none" and self.resume not in ("none", "auto"):
            raise ConfigError(
                f"init_from {self.init_from} starts a new run from weights, and resume {self.resume} continues one; "
                "give one of them"
            )
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"seed is {self.seed}; give a number of 0 to 2^63 - 1")
        if self.optimizer.decay_steps and self.optimizer.warmup_steps + self.optimizer.decay_steps > self.steps:
            raise ConfigError(
                f"optimizer.warmup_steps {self.optimizer.warmup_steps} and decay_steps {self.optimizer.decay_steps} "
                f"are more than the {self.steps} steps; lower one of them"
            )
        self._check_document_mask()
        part_sizes(self.model.context_length, self.context_parallel, self.model.context_unit)
        if not self.experiment.strip():
            raise ConfigError("experiment is empty; give the MLflow experiment a name, or leave it out")
        if self.profile and self.profiled_steps is None:
            raise ConfigError(f"profile is {self.profile}; give the first and the last step, such as 20:25")

    def _check_document_mask(self) -> None:
        others = [
            ("context_parallel", self.context_parallel > 1, "gives every process a part of a window"),
            ("length_warmup", self.length_warmup.steps > 0, "cuts windows again"),
            ("compile", self.compile, "compiles for each shape, and documents give every batch others"),
        ]
        for name, there, reason in others:
            if self.document_mask and there:
                raise ConfigError(f"document_mask does not go with {name}, which {reason}; leave one of them out")

    def _check_warmups(self) -> None:
        context = self.model.context_length
        self.batch_warmup.check("batch_warmup", self.global_batch_size, "global_batch_size")
        self.length_warmup.check("length_warmup", context, "context_length")
        start = self.length_warmup.start
        if start and (context // start).bit_count() != 1:
            raise ConfigError(
                f"length_warmup.start is {start}, which does not double to context_length {context}; give half of it, "
                "a quarter and so on"
            )
        if start and self.context_parallel > 1:
            raise ConfigError("length_warmup cuts windows that context_parallel shares; leave one of them out")

    @property
    def profiled_steps(self) -> tuple[int, int] | None:
        """The first and the last step of the profile, counted from 1; None without one."""
        first, _, last = self.profile.partition(":")
        if not (first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
            return None
        return int(first), int(last)

    def context_split(self, rank: int, group: str = "") -> ContextSplit:
        """The part of a window that the process of this rank has: the whole, unless `context_parallel` processes share
        it, whose process group is `group`."""
        parts = part_sizes(self.model.context_length, self.context_parallel, self.model.context_unit)
        return ContextSplit(parts, rank % self.context_parallel, group)

    def accumulation_steps(self, world_size: int) -> int:
        """Micro-batches per process and optimiser step. Raises UserError if the sizes do not fit the world size."""
        groups, left = divmod(world_size, self.context_parallel)
        if left or not groups:
            raise UserError(
                f"context_parallel {self.context_parallel} does not divide the {world_size} processes; "
                f"start {max(1, groups) * self.context_parallel}, or give a divisor of {world_size}"
            )
        per_pass = self.micro_batch_size * groups
        if self.batch_warmup.start % per_pass:
            raise UserError(
                f"batch_warmup.start {self.batch_warmup.start} is not a multiple of micro_batch_size "
                f"{self.micro_batch_size} times {groups} {self._takers}; change one of them, for example "
                f"--batch_warmup.start {-(-self.batch_warmup.start // per_pass) * per_pass}"
            )
        if self.global_batch_size % per_pass:
            raise UserError(
                f"global_batch_size {self.global_batch_size} is not a multiple of micro_batch_size "
                f"{self.micro_batch_size} times {groups} {self._takers}; change one of them, for example "
                f"--global_batch_size {-(-self.global_batch_size // per_pass) * per_pass}"
            )
        return self.global_batch_size // per_pass

    @property
    def _takers(self) -> str:
        """What a micro-batch goes to."""
        return "processes" if self.context_parallel == 1 else f"groups of {self.context_parallel} processes"

    def to_yaml(self) -> str:
        """The resolved configuration as a file that --config reads."""
        return yaml.safe_dump(_plain(asdict(self)), sort_keys=False)


def parse_config(args: list[str] | None = None) -> RunConfig:
    """The configuration that command-line arguments (default: sys.argv) describe.

    Raises:
        UserError: for an unknown key (with the nearest valid one) or a value of the wrong type.
        ConfigError: for a value that cannot work.
        SystemExit: for --help and --print_config.
    """
    description = "Pretrain a causal language model on a prepared data set."
    return parse_dataclass(RunConfig, args, "pretrain", description)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return str(value) if isinstance(value, Path) else value
