"""What can be checked in seconds before any process is launched: python -m pretrain.preflight [the run's options]

The launcher script runs this first, so that a mistake is one line and not a wall of every process's output.
"""

import dataclasses
import importlib.util
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from data_pipeline import Data, Mixture, UserError, check_folder, load_data, mixture_of, open_windows, user_errors
from maha_model import CausalLM, ConfigError
from pretrain.check_decay import check_decay
from pretrain.check_init import check_init
from pretrain.check_windows import check_windows, pass_over
from pretrain.checkpoint import (
    CheckpointTensors,
    check_sizes,
    find_checkpoint,
    has_checkpoint,
    model_config,
    read_info,
    verify_checkpoint,
    whole_later,
)
from pretrain.claim import check_unclaimed
from pretrain.config import RunConfig, parse_config, read_deepspeed_config
from pretrain.distributed import world_size_from_environment
from pretrain.memory import Planner
from pretrain.output import write_line
from pretrain.progress import Progress
from pretrain.warmup import batch_size, window_length


def check_run(config: RunConfig, world_size: int) -> tuple[RunConfig, Data]:
    """The configuration with the data's vocabulary filled in, and the data set or the mixture.

    Raises:
        UserError: if data, batch sizes, the profile or the output folder do not fit, a package that an option needs is
            missing, or another process trains into the folder.
        ConfigError: if the model cannot be built.
    """
    if config.tracking.tensorboard:
        _check_tensorboard()
    if config.profiled_steps and config.profiled_steps[1] > config.steps:
        raise UserError(f"profile {config.profile} has steps after the last, {config.steps}; give earlier ones")
    data = load_data(config.data)
    model = config.model
    if model.vocab_size == 0:
        model = dataclasses.replace(model, vocab_size=data.vocab_size)
    elif model.vocab_size < data.vocab_size:
        raise UserError(
            f"model.vocab_size {model.vocab_size} is smaller than the {data.vocab_size} tokens of {config.data}; "
            "leave it out to take the data set's"
        )
    config = dataclasses.replace(config, model=model)
    with torch.device("meta"):
        CausalLM(config.model)
    config.accumulation_steps(world_size)
    read_deepspeed_config(config)
    mixture = mixture_of(data)
    context = config.model.context_length
    for source in mixture.sources:
        open_windows(source, "train", context, config.packing)
    open_windows(mixture.validation, "validation", context, config.packing)
    check_unclaimed(config.out)
    check_out(config)
    return config, data


def _check_tensorboard() -> None:
    """Raises UserError without the package that writes event files."""
    if importlib.util.find_spec("tensorboard") is None:
        raise UserError(
            "tracking.tensorboard needs the package tensorboard, which is not installed; pip install "
            "'tensorboard>=2.18', or leave the option out"
        )


def check_out(config: RunConfig) -> None:
    """Raises UserError if the output folder cannot be one, or holds a run that is not to be continued.

    A start that failed before its first step leaves an empty metrics.jsonl at most.
    """
    check_folder(config.out)
    metrics = config.out / "metrics.jsonl"
    if config.resume == "none" and (has_checkpoint(config.out) or (metrics.exists() and metrics.stat().st_size)):
        raise UserError(
            f"--out {config.out} holds a run already; continue it with --resume auto, or choose another --out"
        )


def warn_of_small_disk(config: RunConfig, world_size: int) -> None:
    """Print a warning on stderr where the checkpoints that are still to come need more than there is free."""
    planned = Planner("cpu").checkpoints(config, world_size)
    there = len(list(config.out.glob("checkpoints/step-????????")))
    needed = planned.disk - min(there, config.keep_checkpoints) * planned.checkpoint
    place = next(folder for folder in (config.out, *config.out.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(place).free
    if free < needed:
        write_line(
            f"warning: {place} has {free / 1e9:.3g} GB free, and the run's checkpoints take up to {needed / 1e9:.3g} "
            "GB more; free some, or keep fewer with --keep_checkpoints",
            sys.stderr,
        )


def warn_of_past_profile(config: RunConfig, step: int) -> None:
    """Print a warning on stderr where all steps to be profiled are done at `step`, from which the run goes on."""
    if config.profiled_steps and config.profiled_steps[1] <= step:
        write_line(
            f"warning: the steps of --profile {config.profile} are done, the run goes on from step {step}: nothing is "
            f"profiled; give steps from {step + 1} on",
            sys.stderr,
        )


def warnings_of_warmups(config: RunConfig) -> list[str]:
    """A line for each size that does not come to its full value in the run's steps."""
    return [
        f"warning: --{name}.steps {warmup.steps} are not over in the run's {config.steps} steps: {full} "
        f"{of_step(config, warmup.steps)} is never reached, the last step has {of_step(config, config.steps - 1)}; "
        "give fewer, or more --steps"
        for name, warmup, of_step, full in (
            ("batch_warmup", config.batch_warmup, batch_size, "global_batch_size"),
            ("length_warmup", config.length_warmup, window_length, "model.context_length"),
        )
        if warmup.steps >= config.steps
    ]


def find_resume(config: RunConfig, verify: Callable[[Path], None] = verify_checkpoint) -> Path | None:
    """The checkpoint to continue from, or None to start. `verify` raises UserError at a damaged one.

    Raises:
        UserError: if there is no whole one, or if continuing would replace checkpoints in the output folder.
    """
    if config.resume == "none" or (config.resume == "auto" and not has_checkpoint(config.out)):
        return None
    path = find_checkpoint(config.out if config.resume == "auto" else config.resume, verify)
    if config.out.resolve() not in path.resolve().parents:
        if has_checkpoint(config.out):
            raise UserError(
                f"--out {config.out} holds checkpoints already, not those of --resume {config.resume}; continue them "
                "with --resume auto, or choose another --out"
            )
    elif kept := whole_later(config.out, read_info(path).step):
        raise UserError(
            f"--out {config.out} holds later checkpoints than {path.name} (newest {kept[0].name}), which would be "
            "replaced; choose another --out for a branch, continue the newest with --resume auto, or remove them first"
        )
    return path


def check_resume(checkpoint: Path, config: RunConfig, data: Data) -> None:
    """Raises UserError unless the checkpoint is of this run's model, data set and tokenizer, and the rate goes on."""
    info = read_info(checkpoint)
    CheckpointTensors(checkpoint).check_moments()
    trained, configured = model_config(info).effective(), config.model.to_dict()
    different = [
        f"--model.{key} {json.dumps(value)}"
        for key, value in trained.items()
        if json.dumps(value) != json.dumps(configured[key])
    ]
    if different:
        raise UserError(
            f"{checkpoint} is of another model ({', '.join(different)}); give these options, or another --out"
        )
    if info.tokenizer_sha256 != data.tokenizer_sha256:
        raise UserError(f"{checkpoint} was trained with another tokenizer than that of {data.folder}")
    if info.data_fingerprint != data.fingerprint_at(info.samples):
        hint = f"; of a mixture only stages after window {info.samples} may change" if isinstance(data, Mixture) else ""
        raise UserError(f"{checkpoint} was trained on another data set than {data.folder}{hint}")
    if info.seed != config.seed:
        raise UserError(
            f"{checkpoint} has seed {info.seed}, not {config.seed}; another seed would repeat and skip samples"
        )
    if info.packing != config.packing:
        raise UserError(
            f"{checkpoint} has packing {info.packing}, not {config.packing}; other windows would repeat and skip text: "
            f"give --packing {info.packing}, or start a new run from its weights with --init_from"
        )
    if info.optimizer != config.optimizer.name:
        raise UserError(
            f"{checkpoint} has the moments of {info.optimizer}, not of {config.optimizer.name}; give --optimizer.name "
            f"{info.optimizer}, or start a new run from its weights with --init_from"
        )
    check_decay(checkpoint, info.step, config)


def main() -> None:
    """The command."""
    with user_errors(ConfigError):
        config = parse_config()
        config, data = check_run(config, world_size_from_environment())
        data.verify(["train", "validation"])
        warn_of_small_disk(config, world_size_from_environment())
        checkpoint = find_resume(config, check_sizes)  # the ranks verify the checksums, each of a part of the files
        start, progress = "starting a new run", Progress()
        if checkpoint:
            check_resume(checkpoint, config, data)
            progress = Progress.from_checkpoint(read_info(checkpoint))
            warn_of_past_profile(config, read_info(checkpoint).step)
            start = f"resuming {checkpoint}"
        elif config.init_from != "none":
            weights = find_checkpoint(config.init_from, check_sizes)
            check_init(weights, config, data)
            start += f" from the weights of {weights}"
        pass_over(config, progress)
        check_windows(config, data, progress)
    print(f"{config.data} is whole; {start}", flush=True)


if __name__ == "__main__":
    main()
