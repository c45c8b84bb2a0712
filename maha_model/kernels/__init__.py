"""Operators with several implementations, one folder each: a reference in plain torch, fast forms, one dispatcher."""
