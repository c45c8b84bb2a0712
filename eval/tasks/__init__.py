"""Synthetic tasks that a model is trained on and scored by."""
