"""Which parameters of a model are hidden matrices: those whose two sides both grow with the model's width."""

from torch import nn


def hidden_matrices(model: nn.Module) -> list[nn.Parameter]:
    """The weights (out, in) of all linear maps but the head, which shares the embedding's.

    Embeddings, norms, biases, gains, convolution taps and utilities of a scale are none. Also of a model whose
    parameters ZeRO 3 has shared out.
    """
    embedded = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    maps = [module for module in model.modules() if isinstance(module, nn.Linear)]
    weights = [module.get_parameter("weight") for module in maps]
    return [weight for weight in weights if id(weight) not in embedded]
