"""An index of far tokens: short keys by which a query chooses blocks of them, learned from its own attention.

Of each token one short key, of each query one short query for a group of heads: the products find where a layer's
attention would go at a fraction of its work, as DeepSeek's lightning indexer does for trained models (DeepSeek-V3.2,
arXiv 2512.02556). Compiled for the CPU (index.cpp), a Triton kernel on a GPU; blocks.py, in torch's
operations, is the definition.
"""

from maha_model.kernels.index.blocks import choose_blocks_at
from maha_model.kernels.index.lessons import Rows, attach, lesson
from maha_model.kernels.index.operator import choose_blocks, implementation, pairs_compared

__all__ = ["Rows", "attach", "choose_blocks", "choose_blocks_at", "implementation", "lesson", "pairs_compared"]
