"""Evaluation of a checkpoint on a split of a data set, and results kept beside the checkpoint."""

import json
import time
from contextlib import nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from data_pipeline import Manifest
from data_pipeline.files import atomic_write, sha256_of
from data_pipeline.json_text import to_json
from eval.ranks import Ranks
from eval.scoring.octaves import Octaves, contexts_of_targets
from eval.scoring.perplexity import Score, document_losses
from eval.scoring.positions import OctaveBins
from eval.scoring.texts import SplitOfData, Text
from eval.undefined import quotient
from eval.work import ScoreWork, turn_dial
from maha_model import CausalLM, ScaleWeights, scale_weight_statistics
from pretrain.checkpoint import CheckpointInfo, find_checkpoint, load_model, read_info

WINDOW_UNIT = 64
"""Positions of the first bin of a window; the others are each up to twice as far."""
_FORM = 2
"""Of kept results. One of another form has fewer measures, and is measured again."""


@dataclass(frozen=True)
class Evaluation:
    """Scores of a checkpoint on one split, or one file."""

    checkpoint: Path
    info: CheckpointInfo
    parameters: int
    split: str
    context: int
    stride: int
    documents: list[tuple[str, Score]]
    positions: OctaveBins
    """Losses by position in the document."""
    windows: Octaves
    """Losses by position in the window that scored the token."""
    bigrams: Octaves
    """Losses by distance to the last occurrence of the token's bigram in its window; first those without one."""
    scale_weights: list[dict[str, Any]]
    seconds: float
    score_work: float | None = None
    """Score multiply-adds done per token of the windows; measured where another sparsity is given."""

    @property
    def score(self) -> Score:
        """All documents together."""
        return Score.total(score for _, score in self.documents)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        score = self.score
        return {
            "checkpoint": str(self.checkpoint), "step": self.info.step, "trained_tokens": self.info.tokens,
            "attention": self.info.model["attention"], "parameters": self.parameters,
            "split": self.split, "context": self.context, "stride": self.stride, **score.to_dict(),
            "positions": self.positions.to_dict(), "window_loss": self.windows.to_dict("position"),
            "bigram_loss": self.bigrams.to_dict("distance"),
            "documents": [{"title": title, **part.to_dict()} for title, part in self.documents],
            "scale_weights": self.scale_weights,
            "seconds": self.seconds, "tokens_per_s": quotient(score.tokens, self.seconds),
            "score_multiply_adds_per_token": self.score_work,
        }  # fmt: skip

    @classmethod
    def from_dict(cls, values: dict[str, Any], info: CheckpointInfo) -> "Evaluation":
        """Inverse of `to_dict`, with the checkpoint's `info`."""
        documents = [
            (part["title"], Score(*(part[f.name] for f in fields(Score)))) for part in values["documents"]
        ]  # fmt: skip
        positions, windows, bigrams = (
            (values[name]["nll"], values[name]["tokens"]) for name in ("positions", "window_loss", "bigram_loss")
        )
        return cls(
            Path(values["checkpoint"]), info, values["parameters"], values["split"], values["context"],
            values["stride"], documents, OctaveBins(*positions), Octaves(WINDOW_UNIT, *windows), Octaves(1, *bigrams),
            values["scale_weights"], values["seconds"],
        )  # fmt: skip


def evaluate_once(
    checkpoint: str | Path, manifest: Manifest, split: str = "test", context: int | None = None,
    stride: int | None = None, batch_size: int = 8, device: str = "cpu",
) -> Evaluation:  # fmt: skip
    """`evaluate`, or its kept result: one is kept beside a run's checkpoint for the same weights and data."""
    path = find_checkpoint(checkpoint)
    info = read_info(path)
    context, stride = _window(info, context, stride)
    key = {"checkpoint": sha256_of(path / "checkpoint.json"), "data": manifest.fingerprint, "form": _FORM}
    kept = path.parent.parent / "evaluations" / f"{path.name}-{split}-{context}-{stride}.json"
    if path.parent.name == "checkpoints" and kept.exists():
        values = json.loads(kept.read_bytes())
        if values["key"] == key:
            return Evaluation.from_dict(values, info)
    result = evaluate(path, SplitOfData(manifest, split), context, stride, batch_size, device)
    if path.parent.name == "checkpoints":
        kept.parent.mkdir(exist_ok=True)
        with atomic_write(kept) as file:
            file.write(to_json({"key": key, **result.to_dict()}).encode())
    return result


def _load(path: Path, text: Text, device: str) -> tuple[CheckpointInfo, CausalLM]:
    """The checkpoint's index and model, for a text that fits it."""
    info = read_info(path)
    text.check(path, info)
    return info, load_model(path, device)


def _window(info: CheckpointInfo, context: int | None, stride: int | None) -> tuple[int, int]:
    context = info.model["context_length"] if context is None else context
    return context, max(1, context // 2) if stride is None else stride


def evaluate(
    checkpoint: str | Path, text: Text, context: int | None = None, stride: int | None = None, batch_size: int = 8,
    device: str = "cpu", sparsity: float | None = None, ranks: Ranks | None = None,
) -> Evaluation:  # fmt: skip
    """Score a run's newest whole checkpoint, or a given one, on a text; stride defaults to half the context.

    With a `sparsity` the scales have that price (`turn_dial`), and the work of the scores is counted. Several `ranks`
    score together, and every one gets the result.

    Raises:
        UserError: if checkpoint, text, context, stride or sparsity do not work, or the tokenizers differ.
    """
    ranks = ranks or Ranks()
    # one checkpoint for all: a run that goes on may save another while the processes look for the newest
    path = ranks.gather(ranks.each(lambda: find_checkpoint(checkpoint)))[0]
    info, model = ranks.each(lambda: _load(path, text, device))
    if sparsity is not None:
        turn_dial(model, sparsity)
    context, stride = _window(info, context, stride)
    start = time.perf_counter()
    scores, positions, windows, bigrams = [], OctaveBins(), Octaves(WINDOW_UNIT), Octaves(1)
    work = None if sparsity is None else ScoreWork()
    with work or nullcontext():
        for document, losses in document_losses(model, text.documents(path), context, stride, batch_size, ranks):
            scores.append((document.info.title, Score.of(float(losses.sum()), document.info)))
            positions.add(losses)
            places, distances = contexts_of_targets(document.tokens, context, stride, batch_size, device)
            windows.add(torch.from_numpy(losses), places.cpu())
            bigrams.add(torch.from_numpy(losses), distances.cpu())
    seconds = time.perf_counter() - start
    first = next(text.documents(path)).tokens[:context].astype("int64")
    layers = _scale_weights(model, torch.from_numpy(first)[None].to(device), ranks or Ranks())
    return Evaluation(
        path, info, model.num_parameters(), text.name, context, stride, scores, positions, windows, bigrams,
        [layer._asdict() for layer in layers], seconds, None if work is None else work.per_token(model),
    )  # fmt: skip


def _scale_weights(model: CausalLM, ids_1N: torch.Tensor, ranks: Ranks) -> list[ScaleWeights]:
    """Of one window, which the processes of a group share if it is long enough."""
    shared = ids_1N.shape[1] >= ranks.padded(1, model.config)
    split = model.context_parallel = ranks.split(ids_1N.shape[1], model.config) if shared else None
    return scale_weight_statistics(model, ids_1N if split is None else ids_1N[:, split.own])
