"""Many training runs from one file, and what they found."""
