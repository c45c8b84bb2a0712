"""How much memory a run needs: python -m pretrain.plan --world-size N [--zero S] [--device-gib G] [the run's options]

Prints the bytes per device without a GPU, without the data (if model.vocab_size is given) and without allocating the
model, whether they fit, and the first change that makes them fit. With --checkpoints instead a table of what saving
takes, for models of 1, 7 and 70 billion parameters on 8 to 512 devices.
"""

import argparse
import json
from dataclasses import asdict
from typing import Any, get_args

from data_pipeline import CommandParser, UserError, at_least, user_errors
from maha_model import ConfigError
from pretrain.config import RunConfig, parse_config
from pretrain.memory import DeviceKind, Plan, Planner, checkpoint_table, resolved
from pretrain.operation import Assumptions, Operation, describe_operation, operation

MIB, GIB = 2**20, 2**30
_LEAST, _MOST = 1e-9, 1e12

NOT_COUNTED = (
    "not counted: document_mask. Documents are padded to the longest of their group: each 10 % more rows add 2 to 4 % "
    "to the activations; the FLOPs are others"
)
"""Of runs with it: lengths of documents are not known without the data."""


def describe(plan: Plan, config: RunConfig, world_size: int, device: DeviceKind, seconds: float) -> list[str]:
    """The plan as lines for a reader; `seconds` of a save."""
    held = plan.states
    rows = {
        "parameters": held.parameters,
        "parameters gathered": held.gathered,
        "gradients between passes": held.gradients,
        "optimiser states": held.optimizer,
        "buffers": held.buffers,
        "at the update, besides": held.update,
        **{f"activations, {policy}": bytes_ for policy, bytes_ in plan.activations.items()},
        "the solver's, of none": plan.solver_workspace,
        "offloaded to the host": held.host,
        **{f"peak, {policy}": bytes_ for policy, bytes_ in plan.peaks.items()},
    }
    title = (
        f"GiB per device: {world_size} x {device}, {config.precision}, {config.deepspeed}, micro_batch_size "
        f"{config.micro_batch_size} of {config.model.context_length} tokens"
    )
    if config.context_parallel > 1:
        title += f", {config.context_parallel} processes to a window"
    lines = [title, *(f"  {name:<26}{bytes_ / GIB:>10.3f}" for name, bytes_ in rows.items() if bytes_)]
    if plan.wire is not None:
        lines.append(
            f"MiB that a process sends a layer and step to share windows: {plan.wire.exchanged / MIB:.2f} "
            f"(ring attention {plan.wire.ring / MIB:.2f}, Ulysses {plan.wire.ulysses / MIB:.2f})"
        )
    if config.document_mask:
        lines.append(NOT_COUNTED)
    saved = plan.checkpoints
    return [
        *lines,
        f"planned for activation_checkpointing {config.activation_checkpointing}",
        f"checkpoints: {saved.rank / GIB:.3f} GiB of each process, copied to its host's memory and written in "
        f"{seconds:.1f} s; {saved.disk / GIB:.3f} GiB on disk at most, with keep_checkpoints {config.keep_checkpoints}",
    ]


def describe_checkpoints(rows: list[dict[str, Any]], rank_gb_s: float, storage_gb_s: float) -> list[str]:
    """The table of checkpoints as lines for a reader."""
    title = f"a save where a process writes {rank_gb_s:g} GB/s, and the storage takes {storage_gb_s:g} GB/s of all"
    heads = f"{'parameters':>12}{'devices':>10}{'GB a process':>14}{'GB in all':>12}{'seconds':>10}"
    return [title, heads] + [
        f"{row['parameters'] / 1e9:>10g} B{row['ranks']:>10}{row['rank_bytes'] / 1e9:>14.2f}"
        f"{row['checkpoint_bytes'] / 1e9:>12.0f}{row['seconds']:>10.1f}"
        for row in rows
    ]


def main(args: list[str] | None = None) -> None:
    """The command."""
    parser = CommandParser(
        prog="pretrain.plan", description=__doc__, allow_abbrev=False, formatter_class=argparse.RawTextHelpFormatter,
        epilog="every other option is the run's configuration: see python -m pretrain.train --help",
    )  # fmt: skip
    parser.add_argument("--world-size", type=at_least(1), default=1, help="processes, one per device (default 1)")
    parser.add_argument("--zero", type=int, choices=range(4), help="plan with ds_configs/zeroS.json")
    parser.add_argument("--device", choices=get_args(DeviceKind), default="cuda", help="kind of device (default cuda)")
    parser.add_argument("--device-gib", type=float, help="memory of a device, to check whether the run fits")
    parser.add_argument("--checkpoints", action="store_true", help="the table of what saving takes, and nothing else")
    parser.add_argument("--rank-gb-s", type=float, default=1.0, help="GB/s that a process writes (default 1)")
    parser.add_argument("--storage-gb-s", type=float, default=20.0, help="GB/s of all processes (default 20)")
    parser.add_argument(
        "--mfu",
        type=float,
        help="share of a device's peak that training reaches: prints bytes on the wire, seconds\n"
        "of a step and the time that faults take, with the three that follow",
    )
    parser.add_argument("--tflops", type=float, default=989.0, help="of a device's peak (default 989, an H100's)")
    parser.add_argument(
        "--device-days-per-fault", type=float, default=2100.0, metavar="D",
        help="days of one device until a fault ends the run (default 2100: Llama 3's 419 in 54 days of 16,384)",
    )  # fmt: skip
    parser.add_argument(
        "--restart-minutes", type=float, default=10.0, help="from a fault to the next step (default 10)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, in bytes")
    options, rest = parser.parse_known_args(args)
    with user_errors(ConfigError):
        if options.checkpoints:
            _print_checkpoints(options, rest)
            return
        if options.device_gib is not None:
            _check_size("--device-gib", options.device_gib)
        config = resolved(parse_config(rest), options.zero, options.device)
        planner = Planner(options.device)
        plan = planner.plan(config, options.world_size)
        peak = plan.peaks[config.activation_checkpointing]
        fit: dict[str, Any] = {}
        seconds = plan.checkpoints.seconds(*_speeds(options))
        lines = describe(plan, config, options.world_size, options.device, seconds)
        costs: Operation | None = None
        if options.mfu is not None:
            given = _assumptions(options)
            costs = operation(config, options.world_size, given)
            lines += describe_operation(costs, given, config.checkpoint_interval)
        if options.device_gib is not None:
            limit = int(options.device_gib * GIB)
            fit["fits"] = peak <= limit
            found = None if fit["fits"] else planner.change_that_fits(config, options.world_size, limit)
            fit["change"] = found and found[0]
            lines.append(_verdict(peak, options.device_gib, found))
        if options.json:
            found_bytes = {**plan.to_dict(), "peak": peak, "save_seconds": seconds}
            not_counted = ["document_mask"] if config.document_mask else []
            print(json.dumps({**found_bytes, **(asdict(costs) if costs else {}), **fit, "not_counted": not_counted}))
        else:
            print("\n".join(lines))


def _print_checkpoints(options: argparse.Namespace, rest: list[str]) -> None:
    of_a_run = {"--zero": options.zero, "--device-gib": options.device_gib, "--mfu": options.mfu}
    if given := [*rest, *(option for option, value in of_a_run.items() if value is not None)]:
        raise UserError(f"--checkpoints is a table of no run: leave out {given[0]}")
    rows = checkpoint_table(*_speeds(options))
    if options.json:
        print(json.dumps({"checkpoints": rows}))
    else:
        print("\n".join(describe_checkpoints(rows, options.rank_gb_s, options.storage_gb_s)))


def _speeds(options: argparse.Namespace) -> tuple[float, float]:
    """Bytes a second: of a process, of the storage."""
    for option, speed in (("--rank-gb-s", options.rank_gb_s), ("--storage-gb-s", options.storage_gb_s)):
        _check_size(option, speed)
    return options.rank_gb_s * 1e9, options.storage_gb_s * 1e9


def _assumptions(options: argparse.Namespace) -> Assumptions:
    names = ("mfu", "tflops", "device_days_per_fault", "restart_minutes")
    for name in names:
        _check_size(f"--{name.replace('_', '-')}", getattr(options, name))
    if options.mfu > 1:
        raise UserError(f"--mfu is {options.mfu}; it is a share, so give at most 1: 0.4 for 40 %")
    return Assumptions(*(getattr(options, name) for name in names))


def _check_size(option: str, value: float) -> None:
    if not _LEAST <= value <= _MOST:  # (what is not finite would end up in sums, and in JSON)
        raise UserError(f"{option} is {value}; it must lie between {_LEAST:g} and {_MOST:g}")


def _verdict(peak: int, device_gib: float, found: tuple[str, int] | None) -> str:
    """One line: whether it fits, and what to change."""
    need = f"{peak / GIB:.2f} GiB of {device_gib:g}"
    if peak <= device_gib * GIB:
        return f"fits: {need}, without what the driver and fragmentation take"
    if found is None:
        return f"does not fit: {need}, whatever of batch, recomputation, ZeRO, devices and offload is changed"
    return f"does not fit: {need}; the first change that fits: {found[0]} ({found[1] / GIB:.2f} GiB)"


if __name__ == "__main__":
    main()
