"""Evaluation of checkpoints, which it never trains: perplexity, comparison and its report.

Commands: `python eval/ppl.py`, `python eval/compare.py` (also as modules, `python -m eval.ppl`), and
`python -m eval.harness` for lm-eval's tasks.
"""
