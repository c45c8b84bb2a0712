"""The weights of a standard `CausalLM` under the names that transformers' Llama and litgpt's GPT have for them."""

from torch import Tensor

from maha_model import ModelConfig

Weights = dict[str, Tensor]


def llama_weights(weights: Weights, config: ModelConfig) -> Weights:
    """For `LlamaForCausalLM`; queries, keys and values, gate and hidden part of the feed-forward network apart."""
    renamed = {
        "model.embed_tokens.weight": weights["transformer.embedding.weight"],
        "model.norm.weight": weights["transformer.norm.weight"],
        "lm_head.weight": weights["lm_head.weight"],
    }
    for layer in range(config.num_layers):
        ours, theirs = f"transformer.blocks.{layer}", f"model.layers.{layer}"
        renamed |= {
            f"{theirs}.input_layernorm.weight": weights[f"{ours}.attention_norm.weight"],
            f"{theirs}.post_attention_layernorm.weight": weights[f"{ours}.ffn_norm.weight"],
            f"{theirs}.self_attn.o_proj.weight": weights[f"{ours}.attention.out.weight"],
            f"{theirs}.mlp.down_proj.weight": weights[f"{ours}.ffn.down.weight"],
        }
        parts = dict(zip("qkv", weights[f"{ours}.attention.qkv.weight"].chunk(3), strict=True))
        renamed |= {f"{theirs}.self_attn.{name}_proj.weight": part.clone() for name, part in parts.items()}
        gate, up = weights[f"{ours}.ffn.up.weight"].chunk(2)
        renamed |= {f"{theirs}.mlp.gate_proj.weight": gate.clone(), f"{theirs}.mlp.up_proj.weight": up.clone()}
    return renamed


def litgpt_weights(weights: Weights, config: ModelConfig) -> Weights:
    """For litgpt's `GPT`; gate and hidden part of the feed-forward network apart."""
    renamed = {
        "transformer.wte.weight": weights["transformer.embedding.weight"],
        "transformer.ln_f.weight": weights["transformer.norm.weight"],
        "lm_head.weight": weights["lm_head.weight"],
    }
    for layer in range(config.num_layers):
        ours, theirs = f"transformer.blocks.{layer}", f"transformer.h.{layer}"
        gate, up = weights[f"{ours}.ffn.up.weight"].chunk(2)
        renamed |= {
            f"{theirs}.norm_1.weight": weights[f"{ours}.attention_norm.weight"],
            f"{theirs}.norm_2.weight": weights[f"{ours}.ffn_norm.weight"],
            f"{theirs}.attn.qkv.weight": weights[f"{ours}.attention.qkv.weight"],
            f"{theirs}.attn.proj.weight": weights[f"{ours}.attention.out.weight"],
            f"{theirs}.mlp.fc_1.weight": gate.clone(),
            f"{theirs}.mlp.fc_2.weight": up.clone(),
            f"{theirs}.mlp.proj.weight": weights[f"{ours}.ffn.down.weight"],
        }
    return renamed
