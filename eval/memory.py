"""Memory of MAHA and its peers beside the paper's: python eval/memory.py --config pretrain/configs/paper.yaml [--json]

Every model is the configuration's transformer with another attention: the Transformer with its scores written out
(`eager`) and through torch's fused kernel (`SDPA`); Longformer as its published chunks (`banded`, window 512) and
through our fused span attention (MAHA's span); MAHA with both aggregations. One GB is 10^9 bytes.

Estimated for a GPU by fake tensors, which allocate nothing: a training step (forward, loss, backward of --batch windows
beside weights, gradients and Adam's states, as DeepSpeed holds them) in bfloat16 with float32 master weights, under
ZeRO 0 in float32, which is what the trainer offers; inference in bfloat16, a whole context to hidden states, logits
left out. What kernels use inside themselves and fragmentation are not in it.

Measured: on a GPU what CUDA's allocator gave for the same; on a CPU the exact peak of live tensor bytes of the first
--measured-layers layers in float32. Both are what a micro-batch or a forward pass adds to the weights, beside the
estimate of the very same.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

import torch
import yaml

from data_pipeline import UserError, user_errors
from eval.bench.criteria import Figure, print_report
from eval.bench.eager_attention import BandedAttention, EagerAttention, use_attention
from eval.ppl import best_device
from eval.report.comparison import PAPER
from maha_model import CausalLM, ConfigError, ModelConfig
from maha_model.attention import StandardAttention
from maha_model.transformer import CheckpointPolicy
from pretrain.memory import (
    DeviceKind,
    Job,
    Meter,
    ZeroSettings,
    device_peak,
    fake_model,
    inference_peak,
    micro_batch_stretches,
    parameter_sizes,
    zero_bytes,
)

GB = 10**9
POLICIES: tuple[CheckpointPolicy, ...] = get_args(CheckpointPolicy)
STAGES = range(4)
WINDOW = 512  # Longformer's attention window: 256 tokens on each side
VOCABULARY = 32000  # what data_pipeline.prepare makes of PG-19
DS_CONFIGS = Path(__file__).parent.parent / "ds_configs"


@dataclass(frozen=True)
class Peer:
    """A model of the table: what it changes in the configuration, and how its attention is computed."""

    label: str
    settings: dict[str, Any]
    eager: type[StandardAttention] | None = None

    def config(self, base: ModelConfig) -> ModelConfig:
        """The configuration of this model in the setting of `base`."""
        strategy = self.settings.get("strategy")
        if strategy is None:
            return replace(base, **self.settings)
        return replace(base, attention="maha", aggregation=replace(base.aggregation, strategy=strategy))

    def build(self, config: ModelConfig) -> CausalLM:
        """The model of such a configuration."""
        model = CausalLM(config)
        return model if self.eager is None else use_attention(model, self.eager)


PEERS = {
    "transformer_eager": Peer("Transformer, eager", {"attention": "standard"}, EagerAttention),
    "transformer_sdpa": Peer("Transformer, SDPA", {"attention": "standard"}),
    "longformer_banded": Peer(
        "Longformer, banded", {"attention": "longformer", "span": WINDOW // 2 + 1}, BandedAttention
    ),
    "longformer_fused": Peer("Longformer, fused", {"attention": "longformer"}),
    "maha_convex": Peer("MAHA, convex", {"strategy": "convex"}),
    "maha_nash": Peer("MAHA, Nash", {"strategy": "nash"}),
}
LIMITS = {"transformer_eager": 0.44, "longformer_banded": 0.74}
"""Most that MAHA may take of a peer's peak under the same policy."""


class AllocatorBytes:
    """What CUDA's caching allocator has given out, to count by instead of live tensors."""

    @property
    def now(self) -> int:
        """Bytes given out."""
        return torch.cuda.memory_allocated()

    @property
    def peak(self) -> int:
        """Most bytes since the last reset."""
        return torch.cuda.max_memory_allocated()

    @peak.setter
    def peak(self, value: int) -> None:
        """Reset it to `now`, the one value that is ever set."""
        torch.cuda.reset_peak_memory_stats()


def training_rows(name: str, base: ModelConfig, batch: int, world_sizes: list[int]) -> Iterator[dict[str, Any]]:
    """A training step's estimated bytes on each of the GPUs, by policy, ZeRO stage and number of GPUs."""
    peer = PEERS[name]
    config = peer.config(base)
    matrices, vectors = parameter_sizes(config)

    def stretches(config: ModelConfig, policy: CheckpointPolicy, dtype: torch.dtype) -> list[Any]:
        with fake_model(lambda: peer.build(config), dtype, "cuda") as model:
            model.activation_checkpointing = policy
            return micro_batch_stretches(model, batch)

    for policy in POLICIES:
        for dtype, stages in ((torch.float32, STAGES[:1]), (torch.bfloat16, STAGES[1:])):
            parts = stretches(config, policy, dtype)
            activations = max(part.peak for part in parts)
            without = max(part.peak for part in stretches(replace(config, vocab_size=1), policy, dtype))
            for world_size in world_sizes:
                job = Job(
                    matrices=matrices, vectors=vectors, element=dtype.itemsize, world_size=world_size,
                    accumulates=False, device="cuda",
                )  # fmt: skip
                for stage in stages:
                    zero = zero_settings(stage)
                    yield {
                        "model": name, "policy": policy, "zero": stage, "world_size": world_size,
                        "precision": str(dtype).removeprefix("torch."), "parameters": sum(matrices) + sum(vectors),
                        "activations": activations, "activations_without_vocabulary": without,
                        "states": asdict(zero_bytes(zero, job)), "peak": device_peak(parts, zero, job),
                    }  # fmt: skip


def zero_settings(stage: int) -> ZeroSettings:
    """As ds_configs ships the stage."""
    return ZeroSettings.from_deepspeed(json.loads((DS_CONFIGS / f"zero{stage}.json").read_text()))


def inference_row(name: str, base: ModelConfig, batch: int) -> dict[str, Any]:
    """The estimated bytes of a forward pass on a GPU."""
    peer, dtype = PEERS[name], torch.bfloat16
    config = peer.config(base)
    with fake_model(lambda: peer.build(config), dtype, "cuda") as model:
        weights = model.num_parameters() * dtype.itemsize
        activations = inference_peak(model, batch)
    return {"model": name, "precision": "bfloat16", "weights": weights, "activations": activations,
            "peak": weights + activations}  # fmt: skip


def measured_rows(name: str, base: ModelConfig, batch: int, device: DeviceKind) -> Iterator[dict[str, Any]]:
    """Bytes that a real micro-batch of every policy and a real forward pass add to the weights, and their estimates."""
    peer, config = PEERS[name], PEERS[name].config(base)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    real = peer.build(config).to(device, dtype)
    tasks: dict[str, Callable[[CausalLM, Meter | None], int]] = {
        policy: lambda model, meter, policy=policy: _training(model, batch, policy, meter)  # type: ignore[misc]
        for policy in POLICIES
    }
    tasks["inference"] = lambda model, meter: inference_peak(model, batch, meter)
    for task, bytes_of in tasks.items():
        if device == "cuda":
            bytes_of(real, None)  # what libraries keep for good is there after the first pass
        measured = bytes_of(real, AllocatorBytes() if device == "cuda" else None)
        with fake_model(lambda: peer.build(config), dtype, device) as model:
            estimated = bytes_of(model, None)
        yield {
            "model": name, "task": task, "device": device, "precision": str(dtype).removeprefix("torch."),
            "layers": config.num_layers, "measured": measured, "estimated": estimated,
        }  # fmt: skip


def _training(model: CausalLM, batch: int, policy: CheckpointPolicy, meter: Meter | None) -> int:
    model.activation_checkpointing = policy
    return max(part.peak for part in micro_batch_stretches(model, batch, meter))


def ratios(training: list[dict[str, Any]], inference: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """MAHA's peak, of its aggregations the larger, over every peer's in the same setting."""
    setting = ("policy", "zero", "world_size")
    settings = list(dict.fromkeys(tuple(row[key] for key in setting) for row in training))
    groups = [
        (
            dict(zip(setting, values, strict=True)),
            [row for row in training if tuple(row[key] for key in setting) == values],
        )
        for values in settings
    ]
    found = []
    for group, rows in [*groups, ({"policy": "inference"}, inference)]:
        peak = {row["model"]: row["peak"] for row in rows}
        maha = max(peak["maha_convex"], peak["maha_nash"])
        found.append({**group, "over": {name: maha / peak[name] for name in PEERS if not name.startswith("maha")}})
    return found


def figures(found: list[dict[str, Any]], measured: list[dict[str, Any]], world_size: int) -> list[Figure]:
    """Limits of the ratios, in every setting on `world_size` GPUs, and of the estimates' error if any was measured."""
    out = [
        Figure(f"MAHA's peak over that of {PEERS[name].label}: {_title(ratio)}", ratio["over"][name], limit)
        for ratio in found
        if ratio["policy"] == "inference" or ratio["world_size"] == world_size
        for name, limit in LIMITS.items()
    ]
    if measured:
        error = max(abs(row["estimated"] / row["measured"] - 1) for row in measured)
        out.append(Figure("largest error of an estimate beside the measured bytes", error, 0.02))
    return out


def _title(ratio: dict[str, Any]) -> str:
    if ratio["policy"] == "inference":
        return "inference"
    return f"training, {ratio['policy']}, ZeRO {ratio['zero']} x {ratio['world_size']}"


def describe(report: dict[str, Any]) -> list[str]:
    """The tables for a reader."""
    worlds = report["world_sizes"]
    lines = []
    for policy in POLICIES:
        rows = [row for row in report["training"] if row["policy"] == policy]
        lines.append(
            f"estimated GB per GPU, one training step, activation_checkpointing {policy}; "
            "activations in bfloat16 (of them for the vocabulary)"
        )
        heads = "".join(f"{f'Z{stage} x{world}':>8}" for world in worlds for stage in STAGES)
        lines.append(f"  {'model':20}{'paper':>6}{'M params':>9}{'activations':>18}{heads}")
        for name, peer in PEERS.items():
            own = {(row["world_size"], row["zero"]): row for row in rows if row["model"] == name}
            row = own[worlds[0], STAGES[-1]]
            activations = row["activations"]
            vocabulary = activations - row["activations_without_vocabulary"]
            peaks = "".join(f"{own[world, stage]['peak'] / GB:>8.2f}" for world in worlds for stage in STAGES)
            lines.append(
                f"  {peer.label:20}{_paper(name):>6.1f}{row['parameters'] / 1e6:>9.1f}"
                f"{activations / GB:>10.2f} ({vocabulary / GB:5.2f}){peaks}"
            )
    lines.append("estimated GB on a GPU, inference in bfloat16: weights, activations, peak")
    for row in report["inference"]:
        parts = "".join(f"{row[part] / GB:>8.3f}" for part in ("weights", "activations", "peak"))
        lines.append(f"  {PEERS[row['model']].label:20}{parts}")
    peers = [name for name in PEERS if not name.startswith("maha")]
    lines.append(f"{'MAHA over':32}" + "".join(f"{PEERS[name].label:>20}" for name in peers))
    for ratio in report["ratios"]:
        lines.append(f"  {_title(ratio):30}" + "".join(f"{ratio['over'][name]:>20.3f}" for name in peers))
    if report["measured"]:
        first = report["measured"][0]
        lines.append(
            f"GB added to the weights on this {first['device']}, {first['layers']} layers in {first['precision']}: "
            "measured, estimated"
        )
    for row in report["measured"]:
        lines.append(
            f"  {PEERS[row['model']].label:20}{row['task']:10}{row['measured'] / GB:>9.4f}{row['estimated'] / GB:>9.4f}"
        )
    return lines


def _paper(name: str) -> float:
    return PAPER[{"transformer": "standard"}.get(family := name.partition("_")[0], family)].memory_gb


def read_model(path: Path, vocab_size: int | None) -> ModelConfig:
    """The model of a run's YAML file.

    Raises:
        UserError: if it cannot be read or has no model.
        ConfigError: if the model's settings cannot work.
    """
    try:
        values = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"--config {path} cannot be read: {' '.join(str(error).split())}") from error
    model = values.get("model") if isinstance(values, dict) else None
    if not isinstance(model, dict):
        raise UserError(f"--config {path} has no section `model`; give a file like pretrain/configs/paper.yaml")
    config = ModelConfig.from_dict(model)
    return replace(config, vocab_size=vocab_size or config.vocab_size or VOCABULARY)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python eval/memory.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", required=True, type=Path, help="a run's YAML file; its section `model` is used")
    parser.add_argument("--vocab-size", type=int, help=f"default: the configuration's, or {VOCABULARY}")
    parser.add_argument("--batch", type=int, default=1, help="windows of the configuration's context (default 1)")
    parser.add_argument("--world-size", type=int, nargs="+", default=[1, 8], help="numbers of GPUs (default 1 8)")
    parser.add_argument(
        "--measured-layers", type=int, default=1, help="layers measured on a CPU; 0 measures nothing (default 1)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    args = parser.parse_args()
    with user_errors(ConfigError):
        for option, least in (("vocab_size", 1), ("batch", 1), ("measured_layers", 0)):
            value = getattr(args, option)
            if value is not None and value < least:
                raise UserError(f"--{option.replace('_', '-')} is {value}; it must be at least {least}")
        if min(args.world_size) < 1:
            raise UserError(f"--world-size is {min(args.world_size)}; it must be at least 1")
        base = read_model(args.config, args.vocab_size)
        for peer in PEERS.values():
            peer.config(base)  # a setting that one of them cannot have is told before anything runs
    training = [row for name in PEERS for row in training_rows(name, base, args.batch, args.world_size)]
    inference = [inference_row(name, base, args.batch) for name in PEERS]
    device: DeviceKind = "cuda" if best_device() == "cuda" else "cpu"
    layers = base.num_layers if device == "cuda" else min(base.num_layers, args.measured_layers)
    measured = []
    if layers:
        part = replace(base, num_layers=layers)
        measured = [row for name in PEERS for row in measured_rows(name, part, args.batch, device)]
    found = ratios(training, inference)
    report = {
        "model": base.to_dict(), "batch": args.batch, "world_sizes": args.world_size, "paper_gb": {
            name: _paper(name) for name in PEERS
        }, "training": training, "inference": inference, "ratios": found, "measured": measured,
    }  # fmt: skip
    print_report(describe(report), figures(found, measured, args.world_size[0]), report, args.json)


if __name__ == "__main__":
    main()
