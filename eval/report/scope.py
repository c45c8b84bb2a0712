"""What a comparison measures: the parts of the page, the data, and how much of it."""

from collections.abc import Collection
from dataclasses import dataclass

from data_pipeline import Manifest

PARTS = ("table", "losses", "context", "scales", "attention", "cost")


@dataclass(frozen=True)
class Scope:
    """What is measured, on what and with how much of it."""

    manifest: Manifest
    split: str = "test"
    parts: Collection[str] = PARTS
    stride: int | None = None
    """Tokens between windows; None: half the context."""
    batch_size: int = 8
    """Windows per forward pass."""
    device: str = "cpu"
    samples: int = 64
    """Places of the text at which every context length is tried."""
    windows: int = 16
    """Whole contexts that the scale weights are averaged over."""
    longest: int = 8192
    """Tokens up to which cost is measured."""
