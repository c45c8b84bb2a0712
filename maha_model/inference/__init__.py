"""Using a trained model: decoding token by token, sampling, generation, the model in transformers."""
