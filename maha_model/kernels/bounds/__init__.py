"""Keys of coarse tokens as bounds of the keys that they cover: the score is never below that of any of them.

Over the tokens j of a block, q k_j <= sum_i max(q_i max_j k_ji, q_i min_j k_ji). With the positive part of q beside the
negative one this is a product with the greatest and the least entries side by side, so that the descent's kernel takes
it as a key of twice the width (Tang et al. 2024, arXiv 2406.10774, choose pages of a cache that way).
"""

from maha_model.kernels.bounds.operator import bounding_keys, implementation

__all__ = ["bounding_keys", "implementation"]
