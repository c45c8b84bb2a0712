"""Whether training goes on from a checkpoint as if it had never stopped, bit for bit."""

import dataclasses
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from data_pipeline.tokenizer import SENTENCEPIECE
from pretrain.checkpoint import CheckpointInfo, find_checkpoint, save_checkpoint, stage
from pretrain.checkpoint.engine_state import own_pieces, restore_checkpoint
from pretrain.config import RunConfig
from pretrain.doctor.report import Finding
from pretrain.doctor.setting import Setting
from pretrain.doctor.training import make_trainer, run_config
from pretrain.progress import Progress

KEYS = ("steps", "tensors", "different_tensors", "largest_difference")
STEPS = 2
"""Before and after the checkpoint."""


def check_resume(setting: Setting) -> Finding:
    """A small MAHA model with a descent: steps, a checkpoint, steps; the same from the checkpoint in a new engine.

    With torch's deterministic algorithms: what is compared is the state that a checkpoint holds, not the device's sums.
    """
    config = run_config(dataclasses.replace(setting, quick=True), "paper", "MAHA with descent")
    with tempfile.TemporaryDirectory(dir=setting.folder) as folder, _deterministic():
        whole = _trained(config, setting, save=Path(folder))
        resumed = _trained(config, setting, resume=Path(folder))
    different = {name for name in whole if not torch.equal(whole[name], resumed[name])}
    largest = max((float((whole[name] - resumed[name]).abs().max()) for name in different), default=0.0)
    values = {
        "steps": 2 * STEPS,
        "tensors": len(whole),
        "different_tensors": len(different),
        "largest_difference": largest,
    }
    fault = f"{len(different)} of {len(whole)} tensors differ after a resume, by {largest:.1e} at most"
    summary = f"{len(whole)} tensors of weights and moments are the same bits after a resume"
    return Finding(summary, values, faults=[fault] if different else [])


def _trained(
    config: RunConfig, setting: Setting, save: Path | None = None, resume: Path | None = None
) -> dict[str, Tensor]:
    """All weights and moments after the last step."""
    torch.manual_seed(config.seed)
    trainer = make_trainer(config, setting.group_of_one())
    try:
        if resume is not None:
            path = find_checkpoint(resume)
            trainer.progress = Progress.from_checkpoint(restore_checkpoint(trainer.engine, path))
        for _ in range(2 * STEPS - trainer.progress.step):
            trainer.train_step()
            if save is not None and trainer.progress.step == STEPS:
                progress, tokenizer = trainer.progress, save / SENTENCEPIECE
                tokenizer.touch()
                info = CheckpointInfo(progress.step, progress.samples, 0, config.seed, config.model.to_dict(), "", "")
                save_checkpoint(save, info, own_pieces(trainer.engine), tokenizer, keep=1)
        return {
            f"{piece.name} {number} {piece.start}": value
            for piece in stage(own_pieces(trainer.engine))
            for number, value in enumerate(piece.values)
        }
    finally:
        trainer.engine.destroy()


@contextmanager
def _deterministic() -> Iterator[None]:
    before, only_warns = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=only_warns)
