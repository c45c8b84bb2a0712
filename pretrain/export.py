"""A trained model for those who use it: python -m pretrain.export RUN --out DIR

From a run or one of its checkpoints, whatever ZeRO stage and world size trained it, to a folder with

    model.safetensors   float32 weights by parameter name
    config.json         the model's configuration, with "model_type": "maha"
    tokenizer.model     the SentencePiece model
    checkpoint.json     identity and checksums: evaluation reads an export like a checkpoint

A checkpoint without the optimiser's state, a third of its size; training cannot continue from it. `transformers` loads
the same folder once `maha_model.huggingface` is imported.
"""

import argparse
import json
from pathlib import Path

from data_pipeline import Tokenizer, UserError, user_errors
from maha_model import ConfigError
from pretrain.checkpoint import (
    CONFIG,
    TOKENIZER,
    WEIGHTS,
    find_checkpoint,
    load_model,
    read_info,
    write_checkpoint,
)


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
        "model_type": "maha", "architectures": ["MAHAForCausalLM"], **model.config.to_dict(),
        # what generation pads with and stops at: the next document would begin there
        "bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.bos_id, "pad_token_id": tokenizer.unk_id,
    }  # fmt: skip
    others = {TOKENIZER: (path / TOKENIZER).read_bytes(), CONFIG: json.dumps(config, indent=1).encode()}
    write_checkpoint(out, read_info(path), {WEIGHTS: weights}, others)
    return path


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m pretrain.export", description=__doc__.splitlines()[0])
    parser.add_argument("run", help="a run's folder, or one of its checkpoints")
    parser.add_argument("--out", type=Path, required=True, help="the folder to make")
    arguments = parser.parse_args()
    with user_errors(ConfigError):
        path = export(arguments.run, arguments.out)
    print(f"{path} exported to {arguments.out}")


if __name__ == "__main__":
    main()
