"""The model's configuration and class in `transformers`."""

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel
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

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Of an export, also one of an earlier version."""
        return super().from_dict(ModelConfig.complete(config_dict), **kwargs)

    def to_maha(self) -> ModelConfig:
        """The configuration in this package's own form."""
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
    _is_stateful = True  # tokens cannot be taken back, as assisted generation would

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
                placed as if they began at position 0, and what is predicted at padding is meaningless.
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
            # it. So rows are turned until they begin with a token; what then follows them is visible to no token.
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
        """The whole sequence at every step, with `use_cache` or without: there is no cache yet."""
        return {
            "input_ids": input_ids, "attention_mask": attention_mask, "logits_to_keep": kwargs.get("logits_to_keep", 0)
        }  # fmt: skip
