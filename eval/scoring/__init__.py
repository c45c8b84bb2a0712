"""Scores of a trained model on text."""
