"""The memory table: ratios of MAHA to its peers, their limits, and the text for a reader. One GB is 10^9 bytes."""

from typing import Any

from eval.bench.criteria import Criterion
from eval.bench.memory import POLICIES, STAGES
from eval.bench.memory_peers import PEERS
from eval.paper import PAPER

GB = 10**9
LIMITS = {"transformer_eager": 0.44, "longformer_banded": 0.74}
"""Most that MAHA may take of a peer's peak under the same policy."""


def ratios(training: list[dict[str, Any]], inference: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """MAHA's peak, of its aggregations the larger, over every peer's in the same setting."""
    keys = ("policy", "zero", "world_size")
    by_setting: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in training:
        by_setting.setdefault(tuple(row[key] for key in keys), []).append(row)
    settings = [(dict(zip(keys, values, strict=True)), rows) for values, rows in by_setting.items()]
    found = []
    for setting, rows in [*settings, ({"policy": "inference"}, inference)]:
        peak = {row["model"]: row["peak"] for row in rows}
        maha = max(peak["maha_convex"], peak["maha_nash"])
        found.append({**setting, "over": {name: maha / peak[name] for name in PEERS if not name.startswith("maha")}})
    return found


def criteria_of(found: list[dict[str, Any]], measured: list[dict[str, Any]], world_size: int) -> list[Criterion]:
    """Limits of the ratios, in every setting on `world_size` GPUs, and of the estimates' error if any was measured."""
    out = [
        Criterion(f"MAHA's peak over that of {PEERS[name].label}: {_title(ratio)}", ratio["over"][name], limit)
        for ratio in found
        if ratio["policy"] == "inference" or ratio["world_size"] == world_size
        for name, limit in LIMITS.items()
    ]
    if measured:
        error = max(abs(row["estimated"] / row["measured"] - 1) for row in measured)
        out.append(Criterion("largest error of an estimate beside the measured bytes", error, 0.02))
    return out


def _title(ratio: dict[str, Any]) -> str:
    if ratio["policy"] == "inference":
        return "inference"
    return f"training, {ratio['policy']}, ZeRO {ratio['zero']} x {ratio['world_size']}"


def describe(report: dict[str, Any]) -> list[str]:
    """The tables for a reader."""
    worlds, published = report["world_sizes"], paper_gb()
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
                f"  {peer.label:20}{published[name]:>6.1f}{row['parameters'] / 1e6:>9.1f}"
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


def paper_gb() -> dict[str, float]:
    """Memory in the paper's table, by peer."""
    attention = {name: name.partition("_")[0].replace("transformer", "standard") for name in PEERS}
    return {name: PAPER[attention[name]].memory_gb for name in PEERS}
