"""Using a trained model: decoding token by token, sampling, generation; huggingface is the model in `transformers`."""

from maha_model.inference.decoding import DecodingState, StreamingState
from maha_model.inference.generation import DocumentTokenizer, StopStrings, generate, sample_tokens
from maha_model.inference.sampling import Sampling

__all__ = [
    "DecodingState",
    "DocumentTokenizer",
    "Sampling",
    "StopStrings",
    "StreamingState",
    "generate",
    "sample_tokens",
]
