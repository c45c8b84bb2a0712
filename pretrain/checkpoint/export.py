"""An export: a checkpoint without the optimiser's state, a third of its size.

From a run or one of its checkpoints, whatever ZeRO stage and world size trained it, or from a model that `transformers`
has saved, to a folder with

    model.safetensors   float32 weights by parameter name; above the size of a file several, as transformers reads them:
                        model-00001-of-00002.safetensors, ... and model.safetensors.index.json
    config.json         the model's configuration, with "model_type": "maha"
    tokenizer.model     the SentencePiece model; or tokenizer.json, with tokenizer_config.json for transformers
    checkpoint.json     identity and checksums: evaluation reads an export like a checkpoint
    README.md           the model card, and
    modeling_maha.py    where transformers finds the code: not checksummed, theirs to change

Training cannot continue from it; a new run can start from its weights.
`transformers` loads the same folder once `maha_model.huggingface` is imported.
"""

import json
from math import prod
from pathlib import Path

import numpy as np
from torch import Tensor

from data_pipeline import Tokenizer, UserError, tokenizer_file, user_path
from data_pipeline.tokenizer import JSON
from maha_model.inference.remote_code import AUTO_MAP
from pretrain.checkpoint.draft import Draft
from pretrain.checkpoint.format import CONFIG, SHARDS, WEIGHTS
from pretrain.checkpoint.models import model_config, open_model
from pretrain.checkpoint.saved_model import is_saved_model, open_saved_model
from pretrain.checkpoint.store import find_checkpoint
from pretrain.model_card import write_card, write_tokenizer_config

FILE_BYTES = 5 * 10**9
"""Of weights in one file, at most (more only for a single larger tensor); they are in memory at once."""


def export(checkpoint: str | Path, out: Path, file_bytes: int = FILE_BYTES) -> Path:
    """Write the folder `out`, whole or not at all; returns the checkpoint or saved model it is of.

    Raises:
        UserError: if there is no whole checkpoint, if it has weights that are no numbers, or if `out` exists.
    """
    given = user_path(checkpoint)
    is_saved = is_saved_model(given)
    path = given if is_saved else find_checkpoint(given)
    if out.exists():
        raise UserError(f"--out {out} exists already; choose another or remove it")
    info, tensors = open_saved_model(path) if is_saved else open_model(path)
    file = tokenizer_file(path)
    tokenizer = Tokenizer(file)
    config = {
        "model_type": "maha", "architectures": ["MAHAForCausalLM"], "auto_map": AUTO_MAP, "tie_word_embeddings": True,
        **model_config(info).to_dict(),
        # what generation pads with and stops at: the next document would begin there
        "bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.bos_id, "pad_token_id": tokenizer.unk_id,
    }  # fmt: skip
    draft = Draft(out)
    try:
        files = _files(tensors.shapes, file_bytes)
        for part, names in files.items():
            draft.add_arrays(part, {name: _finite(tensors.whole(name), name, path) for name in names})
        if len(files) > 1:
            draft.add(SHARDS, _list_of_files(files, tensors.shapes))
        draft.add(tokenizer.file_name, file.read_bytes())
        draft.add(CONFIG, json.dumps(config, indent=1).encode())
        draft.finish(info, parts=[])
    except BaseException:
        draft.discard()
        raise
    write_card(out, path, info, sum(map(prod, tensors.shapes.values())))
    if tokenizer.file_name == JSON:
        write_tokenizer_config(out, tokenizer)
    return path


def _finite(weight: Tensor, name: str, path: Path) -> np.ndarray:
    if not weight.isfinite().all():
        raise UserError(f"{name} of {path} has NaN or infinite values; export an earlier checkpoint")
    return weight.numpy()


def _files(shapes: dict[str, tuple[int, ...]], file_bytes: int) -> dict[str, list[str]]:
    """The names of the tensors of each file, in order."""
    files: list[list[str]] = [[]]
    taken = 0
    for name, shape in shapes.items():
        size = 4 * prod(shape)
        if files[-1] and taken + size > file_bytes:
            files.append([])
            taken = 0
        files[-1].append(name)
        taken += size
    if len(files) == 1:
        return {WEIGHTS: files[0]}
    return {f"model-{number:05d}-of-{len(files):05d}.safetensors": names for number, names in enumerate(files, 1)}


def _list_of_files(files: dict[str, list[str]], shapes: dict[str, tuple[int, ...]]) -> bytes:
    """What transformers reads first."""
    size = sum(4 * prod(shape) for shape in shapes.values())
    names = {name: file for file, names in files.items() for name in names}
    return json.dumps({"metadata": {"total_size": size}, "weight_map": names}, indent=1).encode()
