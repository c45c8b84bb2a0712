"""Scores of a trained model on text: perplexity of a checkpoint, losses by position, the unigram baseline; means over
seeds.
"""

from eval.scoring.evaluation import Evaluation, evaluate, evaluate_once
from eval.scoring.perplexity import Losses, Score, Window, document_losses, score_documents, sliding_windows
from eval.scoring.positions import (
    ContextPoint,
    OctaveBins,
    Target,
    by_context,
    by_window_position,
    choose_targets,
    context_lengths,
)
from eval.scoring.sample import Sample
from eval.scoring.unigram import token_counts, unigram_score

__all__ = [
    "ContextPoint",
    "Evaluation",
    "Losses",
    "OctaveBins",
    "Sample",
    "Score",
    "Target",
    "Window",
    "by_context",
    "by_window_position",
    "choose_targets",
    "context_lengths",
    "document_losses",
    "evaluate",
    "evaluate_once",
    "score_documents",
    "sliding_windows",
    "token_counts",
    "unigram_score",
]
