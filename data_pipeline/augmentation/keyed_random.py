"""Random numbers of one document: the same in every process, whatever came before, for one seed, purpose and document.

SentencePiece's own generator will not do: `set_random_generator_seed` gives other samples in every process (0.2.3; it
mixes in a seed of the machine, google/sentencepiece#609).
"""

import numpy as np
import numpy.typing as npt
import xxhash


class KeyedRandom:
    """A counter-based generator (Philox 4x64). Its raw words are part of NumPy's promise of equal streams."""

    def __init__(self, seed: int, purpose: str, document_id: bytes) -> None:
        key = xxhash.xxh3_128_digest(seed.to_bytes(8, "little") + document_id + purpose.encode())
        self._bits = np.random.Philox(key=np.frombuffer(key, dtype=np.dtype("<u8")).astype(np.uint64))

    def shares(self, count: int) -> npt.NDArray[np.float64]:
        """Return float64 [count], uniform in [0, 1)."""
        # 53 bits are those of a double's fraction.
        return (np.asarray(self._bits.random_raw(count)) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def share(self) -> float:
        """Return one number, uniform in [0, 1)."""
        return float(self.shares(1)[0])

    def below(self, limit: int) -> int:
        """Return a whole number in 0..limit-1; its bias is below limit / 2^53."""
        return min(int(self.share() * limit), limit - 1)
