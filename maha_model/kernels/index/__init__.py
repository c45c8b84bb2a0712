"""An index of far tokens: short keys by which a query chooses blocks of them, learned from its own attention.

Of each token one short key, of each query one short query for a group of heads: the products find where a layer's
attention would go at a fraction of its work, as DeepSeek's lightning indexer does for trained models (DeepSeek-V3.2,
arXiv 2512.02556). Plain torch: matrix products, which every device does well.
"""

from maha_model.kernels.index.choice import choose_blocks, choose_blocks_at, pairs_compared
from maha_model.kernels.index.lessons import Rows, attach, lesson

__all__ = ["Rows", "attach", "choose_blocks", "choose_blocks_at", "lesson", "pairs_compared"]
