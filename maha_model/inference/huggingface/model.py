"""The model's classes in `transformers`: hidden states, and the language model over them."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import slice_logits_to_keep
from transformers.utils.deprecation import deprecate_kwarg
from transformers.utils.generic import can_return_tuple

from maha_model.config import ConfigError
from maha_model.documents import Documents
from maha_model.inference.decoding import StreamingState
from maha_model.inference.huggingface.cache import MAHACache
from maha_model.inference.huggingface.config import MAHAPreTrainedConfig
from maha_model.inference.huggingface.padding import first_tokens, packed_lengths, turn
from maha_model.inference.remote_code import AUTO_MAP, CODE, CODE_FILE
from maha_model.kernels.index import Rows
from maha_model.layers import Embedding
from maha_model.transformer import Head, Transformer


class MAHAPreTrained(PreTrainedModel):
    """What both classes share."""

    config_class = MAHAPreTrainedConfig
    base_model_prefix = "transformer"
    supports_gradient_checkpointing = True
    _no_split_modules = ["Block"]  # noqa: RUF012

    def init_weights(self) -> None:
        """Tie the embeddings; the model's parts have initialised themselves."""
        self.tie_weights(recompute_mapping=False)

    def initialize_weights(self) -> None:
        """What `from_pretrained` calls to fill in the weights that a folder lacks: such a folder is refused.

        Raises:
            ValueError: if a weight was not in the folder.
        """
        # those on `meta` have been left on the disk
        here = [(name, p) for name, p in self.named_parameters() if not p.is_meta]
        lacking = [name for name, p in here if not getattr(p, "_is_hf_initialized", False)]
        if lacking:
            raise ValueError(f"the folder has no {', '.join(lacking[:3])}: it is damaged or of another model")

    def save_pretrained(self, save_directory: str | Path, is_main_process: bool = True, **kwargs: Any) -> None:
        """With the reference to this package, as in an export."""
        self.config.auto_map = AUTO_MAP
        super().save_pretrained(save_directory, is_main_process, **kwargs)
        if is_main_process:
            (Path(save_directory) / CODE_FILE).write_text(CODE, encoding="utf-8")

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoModel") -> None:
        """Nothing: a saved folder refers to this package (`inference.remote_code`) instead of holding a copy of it."""

    def get_input_embeddings(self) -> nn.Module:
        """The embedding, which is also the head."""
        return self.base_model.embedding

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the embedding, whose gradient is still summed in float32; `tie_weights` gives it to the head."""
        embedding = Embedding(value.num_embeddings, value.embedding_dim, _weight=value.weight)
        embedding.weight = value.weight  # the same parameter
        self.base_model.embedding = embedding

    @property
    def is_in_one_place(self) -> bool:
        """Whether all weights are on one device; a cache reads them past the hooks that move inputs and weights."""
        return len(set(getattr(self, "hf_device_map", {}).values())) <= 1


class MAHAPreTrainedModel(MAHAPreTrained):
    """The transformer without its head: hidden states after the final norm."""

    def __init__(self, config: MAHAPreTrainedConfig) -> None:
        super().__init__(config)
        for name, part in Transformer(config.to_maha()).named_children():
            self.add_module(name, part)
        self.gradient_checkpointing = False
        self.post_init()

    @deprecate_kwarg("past_key_values", "6.0.0", new_name="cache")
    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        cache_position: Tensor | None = None,
    ) -> BaseModelOutputWithPast:
        """Hidden states (B, N, D).

        Args:
            input_ids: (B, N) int64; or `inputs_embeds`, (B, N, D).
            attention_mask: (B, N), 1 at tokens and 0 at padding, which may be at either end of a row, with a cache at
                its left: its tokens are placed as if they began at position 0, and what stands at padding is
                meaningless. With a cache that has tokens (B, all columns so far), or (B, N).
            position_ids: must count a row's tokens one by one; where they begin is of no account. Or those of a packed
                batch: they begin anew, all at one number, with every sequence, which then has the hidden states that it
                has alone. It goes without padding and without a cache.
            cache: of an earlier forward, which ended before these columns; or a new one.
            inputs_embeds: see `input_ids`.
            use_cache: whether to begin a cache. What is computed with one has no gradient.
            output_hidden_states: the inputs of all blocks and the output, L + 1 tensors (B, N, D).
            output_attentions: refused if true; there is no matrix of them.
            cache_position: of no account, since a cache counts its columns itself.

        Raises:
            ValueError: if an argument cannot be honoured.
        """
        del cache_position
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        if output_attentions:
            raise ValueError("output_attentions is not possible: no layer makes a matrix of attention weights")
        x_BND = self.embedding(input_ids) if inputs_embeds is None else inputs_embeds
        x_BND = self.dropout(x_BND)
        wants_states = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        inputs: list[Tensor] | None = [] if wants_states else None
        if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
            use_cache = False
        if cache is not None or use_cache:
            cache = self._cache_of(cache)
            with torch.no_grad():
                hidden_BND = self._advance(cache, x_BND, attention_mask, position_ids, inputs)
        else:
            hidden_BND = self._through_blocks(x_BND, attention_mask, position_ids, inputs)
        states = None if inputs is None else (*inputs, hidden_BND)
        return BaseModelOutputWithPast(last_hidden_state=hidden_BND, cache=cache, hidden_states=states)

    def _through_blocks(
        self, x_BND: Tensor, mask_BN: Tensor | None, position_ids: Tensor | None, inputs: list[Tensor] | None
    ) -> Tensor:
        """The full forward."""
        first_B, rows, documents = None, None, self._documents(mask_BN, position_ids, x_BND)
        if documents is not None:
            documents = documents.to(x_BND.device)
        elif mask_BN is not None or position_ids is not None:
            mask_BN = x_BND.new_ones(x_BND.shape[:2]) if mask_BN is None else mask_BN
            if not self.config.causal and not mask_BN.all():
                raise ValueError("an encoder attends to padding; give it rows of one length, without padding")
            first_B = first_tokens(mask_BN, position_ids, cached=False)
            rows = Rows(mask_BN.sum(1).long(), mask_BN.sum())
            first_B = first_B if first_B.any() else None
        x_BND = x_BND if first_B is None else turn(x_BND, first_B)
        for block in self.blocks:
            if inputs is not None:
                inputs.append(x_BND)
            if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
                x_BND, _ = self._gradient_checkpointing_func(block, x_BND, documents, rows)
            else:
                x_BND, _ = block(x_BND, documents, rows)
        x_BND = self.norm(x_BND)
        if first_B is None:
            return x_BND
        if inputs is not None:
            inputs[:] = [turn(x, -first_B) for x in inputs]
        return turn(x_BND, -first_B)

    def _documents(self, mask_BN: Tensor | None, position_ids: Tensor | None, x_BND: Tensor) -> Documents | None:
        """The sequences of a packed batch, on the CPU."""
        lengths, config = packed_lengths(mask_BN, position_ids, *x_BND.shape[:2]), self.config.to_maha()
        # With a token of every scale all parameters have a gradient, as processes that add theirs up need it.
        return None if lengths is None or not config.causal else Documents.of(lengths, config.context_unit)

    def _advance(
        self,
        cache: MAHACache,
        x_BND: Tensor,
        mask_BN: Tensor | None,
        position_ids: Tensor | None,
        inputs: list[Tensor] | None,
    ) -> Tensor:
        """Through the states of a cache."""
        B, N, _ = x_BND.shape
        cache.check_prompt(N, *(None if given is None else given.shape[-1] for given in (mask_BN, position_ids)))
        mask_BN = x_BND.new_ones(B, N) if mask_BN is None else mask_BN[:, -N:] if mask_BN.dim() == 2 else mask_BN
        first_B = first_tokens(mask_BN, position_ids, cached=True)
        if len(first_B) == cache.batch_size or not cache.is_initialized:  # `advance` refuses others
            cache.begin(first_B, N, self._new_state)
        hidden_BND = cache.advance(x_BND, inputs)
        if inputs is not None and not inputs:  # of pads alone
            inputs += [hidden_BND] * len(self.blocks)
        return hidden_BND

    def _new_state(self, rows: int, compile: bool) -> StreamingState:
        like = self.embedding.weight.new_zeros(rows, 0)
        return StreamingState(self.blocks, self.norm, self.config.to_maha(), like, compile)

    def _cache_of(self, cache: Cache | None) -> MAHACache:
        if not self.is_in_one_place:
            raise ValueError("a cache needs all weights on one device; leave out use_cache, or device_map")
        if cache is None:
            return MAHACache()
        if not isinstance(cache, MAHACache):
            raise ValueError(f"cache is a {type(cache).__name__}; give that of an earlier output, or use_cache=True")
        return cache


class MAHAPreTrainedForCausalLM(MAHAPreTrained, GenerationMixin):
    """`CausalLM` with the interface of `transformers`: masks, shifted labels, `generate` with a cache."""

    accepts_loss_kwargs = True
    _tied_weights_keys = {"lm_head.weight": "transformer.embedding.weight"}  # noqa: RUF012

    def __init__(self, config: MAHAPreTrainedConfig) -> None:
        if not config.causal:
            raise ConfigError("causal is false; a language model must be causal, use AutoModel for an encoder")
        super().__init__(config)
        self.transformer = MAHAPreTrainedModel(config)
        self.lm_head = Head(config.d_model, config.vocab_size, config.to_maha().width_ratio)
        self.post_init()

    def set_output_embeddings(self, value: nn.Linear) -> None:
        """Take over the weight of another head; what divides the logits stays."""
        self.lm_head.weight, self.lm_head.out_features = value.weight, len(value.weight)

    @deprecate_kwarg("past_key_values", "6.0.0", new_name="cache")
    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        cache_position: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        num_items_in_batch: Tensor | int | None = None,
    ) -> CausalLMOutputWithPast:
        """Predict the next token everywhere.

        Args:
            input_ids: and the arguments not named here: see `MAHAPreTrainedModel.forward`.
            labels: (B, N) int64, the input itself: labels[:, t] is scored with the prediction at t - 1; -100 is not.
            logits_to_keep: of the last positions only; 0 means all.
            num_items_in_batch: what to divide the summed loss by, instead of the number of scored labels.

        Raises:
            ValueError: if an argument cannot be honoured.
        """
        found = self.transformer(
            input_ids, attention_mask, position_ids, cache, inputs_embeds, use_cache, output_hidden_states,
            output_attentions, cache_position, return_dict=True,
        )  # fmt: skip
        logits_BNV = self.lm_head(slice_logits_to_keep(found.last_hidden_state, logits_to_keep))
        loss = None
        if labels is not None:
            loss = self.loss_function(logits_BNV, labels, logits_BNV.shape[-1], num_items_in_batch=num_items_in_batch)
        return CausalLMOutputWithPast(
            loss=loss, logits=logits_BNV, cache=found.cache, hidden_states=found.hidden_states
        )  # fmt: skip

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, next_sequence_length: int | None = None, cache: Cache | None = None,
        attention_mask: Tensor | None = None, inputs_embeds: Tensor | None = None, **kwargs: Any,
    ) -> dict[str, Any]:  # fmt: skip
        """What the next forward gets; `generate` looks up the names of the arguments.

        Not the tokenizers, which `generate` itself takes for stop strings and passes on.

        Raises:
            ValueError: if a prompt is not longer than the text that its cache holds.
        """
        if isinstance(cache, MAHACache) and next_sequence_length is not None:
            cache.check_prompt(next_sequence_length)
        kwargs = {name: value for name, value in kwargs.items() if not name.endswith("tokenizer")}
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(
            input_ids, next_sequence_length=next_sequence_length, cache=cache, attention_mask=attention_mask,
            inputs_embeds=inputs_embeds, **kwargs,
        )  # fmt: skip
        return inputs

    def _prepare_attention_mask_for_generation(self, *args: Any, **kwargs: Any) -> Tensor:
        """Without a mask: the pad token between other tokens is text; transformers takes it for padding there too."""
        mask_BN = super()._prepare_attention_mask_for_generation(*args, **kwargs)
        return mask_BN.cummax(1).values * mask_BN.flip(1).cummax(1).values.flip(1)

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        """No: a layer keeps keys and values of several scales."""
        return False

    def _prepare_cache_for_generation(
        self, generation_config: Any, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> None:
        """A cache of this model's own; none for weights in several places, which go through hooks.

        Raises:
            ValueError: if a prompt does not end with a token.
        """
        mask_BN = model_kwargs.get("attention_mask")
        if mask_BN is not None and mask_BN.dim() == 2 and not mask_BN[:, -1:].all():
            raise ValueError("attention_mask ends with padding; pad at the left, and leave out rows without tokens")
        super()._prepare_cache_for_generation(generation_config, model_kwargs, *args, **kwargs)
        if model_kwargs.get("cache") is None and generation_config.use_cache is not False:
            generation_config.use_cache = self.is_in_one_place
            if generation_config.use_cache:
                model_kwargs["cache"] = MAHACache()
                if generation_config.is_assistant:  # its candidates are taken back
                    model_kwargs["cache"].activate_past_recording()
