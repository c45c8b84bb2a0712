"""The batched exact solver of small quadratic programs."""
