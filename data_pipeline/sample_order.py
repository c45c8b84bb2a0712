"""The order of training samples: it depends on nothing but the seed and the sample's number."""

import hashlib


class SampleOrder:
    """The window of every training sample: a pure function of (seed, epoch, global sample index), needing no memory.

    Sample g belongs to epoch g // num_windows; within an epoch every window comes once, in the order of a keyed
    pseudo-random permutation (a balanced Feistel network, walked back into range as in format-preserving encryption).
    It is independent of the world size, of where a run stopped, and of any library's random generator.
    """

    _ROUNDS = 6

    def __init__(self, num_windows: int, seed: int) -> None:
        self.num_windows, self.seed = num_windows, seed
        self._half_bits = max(1, -(-(num_windows - 1).bit_length() // 2))

    def __getitem__(self, sample: int) -> int:
        epoch, position = divmod(sample, self.num_windows)
        while True:
            position = self._permute(position, epoch)
            if position < self.num_windows:
                return position

    def _permute(self, position: int, epoch: int) -> int:
        mask = (1 << self._half_bits) - 1
        left, right = position >> self._half_bits, position & mask
        for turn in range(self._ROUNDS):
            key = f"{self.seed}/{epoch}/{turn}/{right}".encode()
            left, right = right, left ^ (int.from_bytes(hashlib.blake2b(key, digest_size=8).digest()) & mask)
        return left << self._half_bits | right

    def batch(self, first: int, size: int, rank: int = 0, world_size: int = 1) -> list[int]:
        """This rank's windows of the global batch made of samples `first` to `first + size - 1`, ranks in order."""
        if size % world_size:
            raise ValueError(f"a global batch of {size} cannot be shared by {world_size} ranks")
        share = size // world_size
        return [self[first + rank * share + i] for i in range(share)]
