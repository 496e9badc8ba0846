"""Known answers of Philox4x32-10, from Random123's file kat_vectors: counter, key, words."""

import numpy as np

COUNTERS = (
    "00000000 00000000 00000000 00000000",
    "ffffffff ffffffff ffffffff ffffffff",
    "243f6a88 85a308d3 13198a2e 03707344",
)
KEYS = ("00000000 00000000", "ffffffff ffffffff", "a4093822 299f31d0")
WORDS = (
    "6627e8d5 e169c58d bc57ac4c 9b00dbd8",
    "408f276d 41c83b0e a20bc7c6 6d5451fd",
    "d16cfe09 94fdcceb 5001e420 24126ea1",
)


def table(rows: tuple[str, ...]) -> np.ndarray:
    return np.array([[int(word, 16) for word in row.split()] for row in rows], np.uint32)
