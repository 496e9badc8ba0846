"""Where in the Hugging Face checkpoint an engine's tensor lies."""

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

MAX_ELEMENTS = 2**34  # of a parameter: four to each of the blocks that 32 bits can count


@dataclass(frozen=True)
class Region:
    """The part of a checkpoint's parameter that a tensor of the engine holds, seen as a 2-D array.

    Element (i, j) of the engine's tensor is element `offset + i * row_stride + j` of the checkpoint's
    tensor, flattened row by row. A 1-D tensor is one row. A fused tensor has one region for each of its
    parts; rows that only pad have none. If the engine keeps a parameter transposed, pass its view `.t()`.

    parameter: `parameter_id` of its name in the checkpoint. ValueError for negative or impossible numbers.
    """

    parameter: int
    offset: int
    rows: int
    cols: int
    row_stride: int

    def __post_init__(self) -> None:
        if not 0 <= self.parameter < 2**32:
            raise ValueError(f"parameter must be in [0, 2**32), not {self.parameter}")
        if min(self.offset, self.rows, self.cols) < 0:
            raise ValueError(f"offset, rows and cols must not be negative: {self}")
        if self.rows > 1 and self.row_stride < self.cols:
            raise ValueError(f"rows overlap, since row_stride is smaller than cols: {self}")
        if self.offset + max(self.rows - 1, 0) * self.row_stride + self.cols > MAX_ELEMENTS:
            raise ValueError(f"the last element's index must be below 2**34: {self}")

    @classmethod
    def whole(cls, name: str, shape: Sequence[int]) -> "Region":
        """Return the region of all of parameter `name`, whose shape in the checkpoint is `shape`.

        A shape of three or more dimensions becomes (shape[0], the rest): flatten the tensor likewise.
        """
        rows, cols = (1, math.prod(shape)) if len(shape) < 2 else (shape[0], math.prod(shape[1:]))
        return cls(parameter_id(name), 0, rows, cols, cols)

    def row_slice(self, start: int, stop: int) -> "Region":
        """Return rows start:stop. ValueError unless 0 <= start <= stop <= rows."""
        _check_slice("rows", start, stop, self.rows)
        return replace(self, offset=self.offset + start * self.row_stride, rows=stop - start)

    def column_slice(self, start: int, stop: int) -> "Region":
        """Return columns start:stop (1-D: elements). ValueError unless 0 <= start <= stop <= cols."""
        _check_slice("cols", start, stop, self.cols)
        return replace(self, offset=self.offset + start, cols=stop - start)


def parameter_id(name: str) -> int:
    """Return the 32-bit id of a parameter: the first four bytes, little-endian, of SHA-256 of its name.

    A hash, not a position: which other parameters are trained, and in which order, changes nothing.
    """
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little")


def check_parameter_ids(names: Iterable[str]) -> None:
    """Raise ValueError if two of these parameters have one id: they would share their noise.

    Among a thousand names that happens once in ten thousand models.
    """
    seen: dict[int, str] = {}
    for name in names:
        other = seen.setdefault(parameter_id(name), name)
        if other != name:
            raise ValueError(
                f"parameters {other!r} and {name!r} have the same 32-bit id: train only one of them"
            )


def _check_slice(what: str, start: int, stop: int, size: int) -> None:
    if not 0 <= start <= stop <= size:
        raise ValueError(f"{what} {start}:{stop} are outside a region of {size} {what}")
