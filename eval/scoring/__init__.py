"""Scores of a trained model on text: perplexity of a checkpoint, losses by position and by what the context holds, the
unigram baseline; means over seeds.
"""

from eval.scoring.bigrams import bigram_distance, sum_by_octave
from eval.scoring.evaluation import Evaluation, evaluate, evaluate_once
from eval.scoring.octaves import Octaves, contexts_of_targets
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
from eval.scoring.texts import SplitOfData, Text, TextFile
from eval.scoring.unigram import token_counts, unigram_score

__all__ = [
    "ContextPoint",
    "Evaluation",
    "Losses",
    "OctaveBins",
    "Octaves",
    "Sample",
    "Score",
    "SplitOfData",
    "Target",
    "Text",
    "TextFile",
    "Window",
    "bigram_distance",
    "by_context",
    "by_window_position",
    "choose_targets",
    "context_lengths",
    "contexts_of_targets",
    "document_losses",
    "evaluate",
    "evaluate_once",
    "score_documents",
    "sliding_windows",
    "sum_by_octave",
    "token_counts",
    "unigram_score",
]
