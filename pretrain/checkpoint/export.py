"""An export: a checkpoint without the optimiser's state, a third of its size.

From a run or one of its checkpoints, whatever ZeRO stage and world size trained it, to a folder with

    model.safetensors   float32 weights by parameter name
    config.json         the model's configuration, with "model_type": "maha"
    tokenizer.model     the SentencePiece model
    checkpoint.json     identity and checksums: evaluation reads an export like a checkpoint
    README.md           the model card, and
    modeling_maha.py    where transformers finds the code: not checksummed, theirs to change

Training cannot continue from it. `transformers` loads the same folder once `maha_model.huggingface` is imported.
"""

import json
from pathlib import Path

from data_pipeline import Tokenizer, UserError
from maha_model.inference.remote_code import AUTO_MAP
from pretrain.checkpoint.format import CONFIG, TOKENIZER, WEIGHTS, read_info
from pretrain.checkpoint.models import load_model
from pretrain.checkpoint.store import find_checkpoint, write_checkpoint
from pretrain.model_card import write_card


def export(checkpoint: str | Path, out: Path) -> Path:
    """Write the folder `out`, whole or not at all; returns the checkpoint that was exported.

    Raises:
        UserError: if there is no whole checkpoint, or `out` exists.
    """
    path = find_checkpoint(checkpoint)
    if out.exists():
        raise UserError(f"--out {out} exists already; choose another or remove it")
    model = load_model(path)
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    tokenizer = Tokenizer(path / TOKENIZER)
    config = {
        "model_type": "maha", "architectures": ["MAHAForCausalLM"], "auto_map": AUTO_MAP, **model.config.to_dict(),
        # what generation pads with and stops at: the next document would begin there
        "bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.bos_id, "pad_token_id": tokenizer.unk_id,
    }  # fmt: skip
    others = {TOKENIZER: (path / TOKENIZER).read_bytes(), CONFIG: json.dumps(config, indent=1).encode()}
    write_checkpoint(out, read_info(path), {WEIGHTS: weights}, others)
    write_card(out, path, read_info(path), model.num_parameters())
    return path
