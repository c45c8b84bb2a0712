"""The model in `transformers`: importing this module registers it, and an export is then a folder that loads as usual.

    import maha_model.huggingface
    model, tokenizer = AutoModelForCausalLM.from_pretrained(DIR), AutoTokenizer.from_pretrained(DIR)

Parameters have the names of `CausalLM` and the configuration the fields of `ModelConfig`, so that one folder
serves both. This is the one module of the package that needs more than torch: `transformers` and `sentencepiece`.
"""

import dataclasses
import shutil
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from sentencepiece import SentencePieceProcessor
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizer,
)
from transformers.modeling_outputs import CausalLMOutput
from transformers.utils.generic import can_return_tuple

from maha_model.config import ModelConfig
from maha_model.transformer import CausalLM


class MAHAPreTrainedConfig(PreTrainedConfig):
    """The fields of `ModelConfig`, checked as there, under their own names and the usual ones of `transformers`."""

    model_type = "maha"
    tie_word_embeddings = True
    attribute_map = {  # noqa: RUF012  # the base class's name and form
        "hidden_size": "d_model",
        "intermediate_size": "d_ff",
        "max_position_embeddings": "context_length",
        "num_attention_heads": "num_heads",
        "num_hidden_layers": "num_layers",
    }

    def __init__(self, **values: Any) -> None:
        values = {self.attribute_map.get(name, name): value for name, value in values.items()}
        names = [field.name for field in dataclasses.fields(ModelConfig)]
        config = ModelConfig.from_dict({name: values.pop(name) for name in names if name in values})
        for name, value in config.to_dict().items():
            setattr(self, name, value)
        super().__init__(**values)

    def to_maha(self) -> ModelConfig:
        """The configuration as the rest of this package has it."""
        return ModelConfig.from_dict(
            {field.name: getattr(self, field.name) for field in dataclasses.fields(ModelConfig)}
        )


class MAHAPreTrainedForCausalLM(PreTrainedModel, GenerationMixin):
    """`CausalLM` with the interface of `transformers`: masks, shifted labels, `generate`."""

    config_class = MAHAPreTrainedConfig
    base_model_prefix = "transformer"
    accepts_loss_kwargs = True
    _tied_weights_keys = {"lm_head.weight": "transformer.embedding.weight"}  # noqa: RUF012
    _no_split_modules = ["Block"]  # noqa: RUF012
    _is_stateful = True  # what it has read cannot be cut back, as assisted generation would

    def __init__(self, config: MAHAPreTrainedConfig) -> None:
        super().__init__(config)
        model = CausalLM(config.to_maha())
        self.transformer, self.lm_head = model.transformer, model.lm_head
        self.post_init()

    def init_weights(self) -> None:
        """Tie the embeddings; the model's parts have initialised themselves."""
        self.tie_weights(recompute_mapping=False)

    def initialize_weights(self) -> None:
        """What `from_pretrained` calls to fill in the weights that a folder lacks: such a folder is refused.

        Raises:
            ValueError: if a weight was not in the folder.
        """
        lacking = [name for name, p in self.named_parameters() if not getattr(p, "_is_hf_initialized", False)]
        if lacking:
            raise ValueError(f"the folder has no {', '.join(lacking[:3])}: it is damaged or of another model")

    def get_input_embeddings(self) -> nn.Module:
        """The embedding, which is also the head."""
        return self.transformer.embedding

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the embedding; `tie_weights` gives it to the head."""
        self.transformer.embedding = value

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        num_items_in_batch: Tensor | int | None = None,
    ) -> CausalLMOutput:
        """Predict the next token everywhere.

        Args:
            input_ids: (B, N) int64.
            attention_mask: (B, N), 1 at tokens and 0 at padding, which may be at either end of a row: its tokens are
                read as if they began at position 0, and what is predicted at padding is meaningless.
            labels: (B, N) int64, the input itself: labels[:, t] is scored with the prediction at t - 1; -100 is not.
            logits_to_keep: of the last positions only; 0 means all.
            num_items_in_batch: what to divide the summed loss by, instead of the number of scored labels.

        Raises:
            ValueError: if padding lies between the tokens of a row.
        """
        if attention_mask is None:
            hidden_BND, _ = self.transformer(input_ids)
        else:
            # Positions count from a row's first token, and coarse tokens lie on that grid: left padding would shift
            # it. So rows are turned until they begin with a token; what then follows them no token can see.
            first_B1 = attention_mask.long().argmax(1, keepdim=True)
            column_N = torch.arange(input_ids.shape[1], device=input_ids.device)
            turned_BN, back_BN = (column_N + first_B1) % len(column_N), (column_N - first_B1) % len(column_N)
            if attention_mask.gather(1, turned_BN).long().diff(dim=1).gt(0).any():
                raise ValueError("attention_mask has padding between tokens; a row is padded at its left or right end")
            hidden_BND, _ = self.transformer(input_ids.gather(1, turned_BN))
            hidden_BND = hidden_BND.gather(1, back_BN[..., None].expand_as(hidden_BND))
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits_BNV = self.lm_head(hidden_BND[:, keep])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits_BNV, labels, logits_BNV.shape[-1], num_items_in_batch=num_items_in_batch)
        return CausalLMOutput(loss=loss, logits=logits_BNV)

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        """No: a layer keeps keys and values of several scales."""
        return False

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """The whole sequence at every step, whatever `use_cache` says: there is no cache yet."""
        return {
            "input_ids": input_ids, "attention_mask": attention_mask, "logits_to_keep": kwargs.get("logits_to_keep", 0)
        }  # fmt: skip


class MAHAPreTrainedTokenizer(PreTrainedTokenizer):
    """The SentencePiece model that a data set was made with, so that any text has the token ids it had in training.

    A text begins with the beginning-of-sequence token unless `add_bos_token` is false. In training that token separates
    documents, so it is also what ends a generated one. Special tokens written out in a text are text.
    """

    vocab_files_names = {"vocab_file": "tokenizer.model"}  # noqa: RUF012
    model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012
    padding_side = "left"  # what `generate` needs

    def __init__(self, vocab_file: str, add_bos_token: bool = True, **kwargs: Any) -> None:
        self.vocab_file = vocab_file
        self.processor = SentencePieceProcessor(model_file=vocab_file)
        bos, unknown = (self.processor.id_to_piece(i) for i in (self.processor.bos_id(), self.processor.unk_id()))
        defaults = {
            "bos_token": bos, "eos_token": bos, "unk_token": unknown,
            "pad_token": unknown,  # which no text contains: the vocabulary falls back to bytes
            "split_special_tokens": True, "clean_up_tokenization_spaces": False,
        }  # fmt: skip
        super().__init__(add_bos_token=add_bos_token, **{**defaults, **kwargs})
        self.add_bos_token = add_bos_token

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return self.processor.vocab_size()

    def get_vocab(self) -> dict[str, int]:
        """Token ids by piece."""
        return {**{self.processor.id_to_piece(i): i for i in range(self.vocab_size)}, **self.added_tokens_encoder}

    def _tokenize(self, text: str, **_: Any) -> list[str]:
        return self.processor.encode(text, out_type=str)

    def _convert_token_to_id(self, token: str) -> int:
        return self.processor.piece_to_id(token)

    def _convert_id_to_token(self, index: int) -> str:
        return self.processor.id_to_piece(index)

    def convert_tokens_to_string(self, tokens: Sequence[str]) -> str:
        """The text of pieces; special tokens are written out."""
        special = set(self.all_special_tokens)
        runs = ((written, list(run)) for written, run in groupby(tokens, special.__contains__))
        return "".join("".join(run) if written else self.processor.decode(run) for written, run in runs)

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """A document: the beginning-of-sequence token, then the text."""
        return [self.bos_token_id] * self.add_bos_token + token_ids_0 + (token_ids_1 or [])

    def get_special_tokens_mask(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None, already_has_special_tokens: bool = False
    ) -> list[int]:
        """1 at special tokens, 0 at text."""
        ids = (
            token_ids_0
            if already_has_special_tokens
            else self.build_inputs_with_special_tokens(token_ids_0, token_ids_1)
        )
        return [int(i in self.all_special_ids) for i in ids]

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str]:
        """Copy the SentencePiece model into a folder."""
        prefix = f"{filename_prefix}-" if filename_prefix else ""
        out = Path(save_directory) / f"{prefix}{self.vocab_files_names['vocab_file']}"
        if out.resolve() != Path(self.vocab_file).resolve():
            shutil.copyfile(self.vocab_file, out)
        return (str(out),)


AutoConfig.register(MAHAPreTrainedConfig.model_type, MAHAPreTrainedConfig)
AutoModelForCausalLM.register(MAHAPreTrainedConfig, MAHAPreTrainedForCausalLM)
AutoTokenizer.register(MAHAPreTrainedConfig, slow_tokenizer_class=MAHAPreTrainedTokenizer)
