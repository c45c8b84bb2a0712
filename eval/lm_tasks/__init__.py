"""Tasks of lm-eval, for any model that it can score: recall of five kinds in real text, and perplexity.

The YAML files here define them, and refer to the functions that make their documents. `python -m eval.harness` finds
them by their names, `lm_eval --include_path` by this folder. What they need is given as lm-eval's `--metadata`, see
`Setting`.
"""

from pathlib import Path

FOLDER = Path(__file__).parent
"""Where the YAML files are."""

__all__ = ["FOLDER"]
