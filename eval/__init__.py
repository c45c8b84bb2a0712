"""Evaluation of checkpoints, which it never trains: perplexity, comparison and its report.

The modules here are commands, which parse options, call and print: `python eval/ppl.py`, `python eval/compare.py`,
`python eval/memory.py`, `python eval/bench_*.py` (each also as a module, `python -m eval.ppl`), `python -m eval.study`,
`python -m eval.generate`, `python -m eval.recall` and `python -m eval.harness` for lm-eval's tasks. What they call:

- `scoring`: perplexity of text, and where in it the losses fall;
- `report`: several runs side by side on one page;
- `studies`: many training runs from one file, and their results;
- `tasks`: synthetic tasks of recall, and suites of models trained on them;
- `bench`: benchmarks with a limit for each value.
"""
