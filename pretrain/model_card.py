"""Files beside an export's weights that their user may change: README.md, reference to the code, tokenizer settings.

So they are no part of what checkpoint.json checksums. The README is a model card of the Hugging Face hub.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from data_pipeline import Manifest, Tokenizer, UserError
from maha_model import ModelConfig
from maha_model.inference.remote_code import CODE, CODE_FILE, TOKENIZER_CONFIG

if TYPE_CHECKING:
    from pretrain.checkpoint import CheckpointInfo

CARD = "README.md"
_PARTS = {"maha": "MAHA, multiscale attention,", "standard": "standard attention", "longformer": "sliding windows"}


def write_card(out: Path, checkpoint: Path, info: "CheckpointInfo", parameters: int) -> None:
    """Write the model card and the reference to the code into the export `out`.

    Args:
        out: the export.
        checkpoint: what was exported; its run's configuration, data and evaluations are described where they are found.
        info: of the checkpoint.
        parameters: of the model.
    """
    (out / CARD).write_text(card(checkpoint, info, parameters), encoding="utf-8")
    (out / CODE_FILE).write_text(CODE, encoding="utf-8")


def write_tokenizer_config(out: Path, tokenizer: Tokenizer) -> None:
    """Write `tokenizer_config.json` into the export `out`: how transformers reads its `tokenizer.json`."""
    names = {"bos_token": tokenizer.bos_id, "eos_token": tokenizer.bos_id, "pad_token": tokenizer.unk_id}
    config = TOKENIZER_CONFIG | {name: tokenizer.name(number) for name, number in names.items()}
    (out / "tokenizer_config.json").write_text(json.dumps(config, indent=1, ensure_ascii=False), encoding="utf-8")


def card(checkpoint: Path, info: "CheckpointInfo", parameters: int) -> str:
    """The text of the model card."""
    run = checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else None
    model = ModelConfig.from_saved(info.model)
    scores = [] if run is None else _scores(run, checkpoint.name, info.data_fingerprint)
    return f"""---
license: unknown
library_name: transformers
pipeline_tag: text-generation
tags:
- maha
---

# {run.resolve().name if run is not None else checkpoint.resolve().name}

A causal language model of {parameters:,} parameters with {_PARTS[model.attention]} in {model.num_layers} layers of
width {model.d_model}, for contexts of {model.context_length} tokens. Set `license` above before
you pass it on: it is unknown here.

## Training

| | |
| --- | --- |
| text | {_text(run, info.data_fingerprint)} |
{_seen(info)}{_origin(info.origin)}

## Evaluation

{_table(scores)}

## Use

```python
import maha_model.huggingface  # or pass trust_remote_code=True below; the package maha_model is needed either way
from transformers import AutoModelForCausalLM, AutoTokenizer

model, tokenizer = AutoModelForCausalLM.from_pretrained("."), AutoTokenizer.from_pretrained(".")
out = model.generate(**tokenizer("In the beginning", return_tensors="pt"), max_new_tokens=50)
print(tokenizer.decode(out[0], skip_special_tokens=True))
```
"""


def _text(run: Path | None, fingerprint: str) -> str:
    """What the training text is called: by the data set's manifest if it is still there, else by its folder's name."""
    try:
        folder = Path(yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))["data"]) if run else None
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        folder = None
    if run is not None and (mixed := _mixture(run)):
        return mixed
    if folder is None:
        return "unknown"
    try:
        manifest = Manifest.load(folder)
    except UserError:
        return folder.name
    # a source may be a path, whose folders are nobody's business
    return Path(str(manifest.request.get("source"))).name if manifest.fingerprint == fingerprint else folder.name


def _mixture(run: Path) -> str:
    """The shares of a mixture's sources by their folders' names; empty if the run had none."""
    try:
        stages = json.loads((run / "mixture.json").read_bytes())["stages"]
        texts = [
            ", ".join(
                f"{Path(it['folder']).name} {it['share']:.4g} (`{it['fingerprint'][:12]}`)" for it in stage["sources"]
            )
            for stage in stages
        ]
        begins = ["", *(f"from window {stage['after']:,} " for stage in stages[1:])]
        return "mixture of " + "; ".join(begin + text for begin, text in zip(begins, texts, strict=True))
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return ""


def _seen(info: "CheckpointInfo") -> str:
    """Lines of the table: of what the run has read; of a model that transformers has saved nobody has counted it."""
    if not info.data_fingerprint:
        return "| tokens seen | unknown: transformers has saved the model |"
    fingerprint = f"| data fingerprint | `{info.data_fingerprint}` |"
    return f"{fingerprint}\n| tokens seen | {info.tokens:,} |\n| steps | {info.step:,} |"


def _origin(origin: dict[str, Any]) -> str:
    """Lines of the table: what the weights had seen before the run."""
    if not origin:
        return ""
    earlier = _origin(origin.get("origin") or {})
    seen = f"step {origin['step']:,}, {origin['tokens']:,} tokens of `{origin['data_fingerprint']}`"
    return f"\n| started from | {seen} |{earlier}"


def _scores(run: Path, step: str, fingerprint: str) -> list[dict[str, Any]]:
    """Evaluations of this checkpoint on its own data."""
    found = []
    for path in sorted((run / "evaluations").glob(f"{step}-*.json")):
        try:
            result = json.loads(path.read_bytes())
            if result["key"]["data"] == fingerprint:
                found.append({name: result[name] for name in _COLUMNS})
        except (ValueError, KeyError, TypeError):  # a damaged one
            continue
    return found


_COLUMNS = ("split", "context", "token_perplexity", "word_perplexity", "bits_per_byte")


def _table(scores: list[dict[str, Any]]) -> str:
    if not scores:
        return "None was found beside the checkpoint."
    lines = [
        f"| {s['split']} | {s['context']} | {s['token_perplexity']:.4g} | {s['word_perplexity']:.4g} | "
        f"{s['bits_per_byte']:.4g} |"
        for s in scores
    ]
    head = ["| split | context | perplexity a token | perplexity a word | bits a byte |", "| --- " * 5 + "|"]
    return "\n".join([*head, *lines])
