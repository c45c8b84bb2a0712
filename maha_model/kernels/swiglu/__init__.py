"""SwiGLU's activation: one Triton kernel each way on a GPU, plain torch elsewhere."""

from maha_model.kernels.swiglu.operator import implementation, swiglu

__all__ = ["implementation", "swiglu"]
