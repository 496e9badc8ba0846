"""Sizes to which batches are rounded up, so that few shapes of tensors serve all batches of a run.

A batch's bucket depends on that batch alone: the rounding of matrix products depends on the shapes, and a run
that goes on with --resume is to have the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass

from sglang_mezo_plugin.engine.room import Room

TOKENS = 64  # the finest step of a copy's tokens, and of its labelled rows
SEGMENTS = 16
LONGEST = 64
PREFIXES = 1 << 14  # 128 KiB of indices, the same for almost all batches


@dataclass(frozen=True)
class Shape:
    """The sizes of a batch's tensors. All but `copies` and `prefixes` are one copy's.

    tokens, segments: what is computed. longest: tokens of a segment with its prefix, at most. prefixes:
    tokens of all prefixes of all copies, at most. rows, targets: tokens from which others are predicted, and
    those.
    """

    copies: int
    tokens: int
    segments: int
    longest: int
    prefixes: int
    rows: int
    targets: int


def bucket_of(shape: Shape, context: int) -> Shape:
    """Return the bucket of a batch, with room for segments that hold the tokens it has too few.

    context: the longest sequence that the engine takes; no segment of the bucket is longer.
    """
    tokens = round_tokens(shape.tokens)
    longest = min(_power_of_two(shape.longest, LONGEST), context)
    fillers = -(-(tokens - shape.tokens) // longest)
    return Shape(
        copies=shape.copies,
        tokens=tokens,
        segments=_power_of_two(shape.segments + fillers, SEGMENTS),
        longest=longest,
        prefixes=_power_of_two(shape.prefixes, PREFIXES),
        rows=round_tokens(shape.rows),
        targets=_power_of_two(shape.targets, TOKENS),
    )


def bucket_room(room: Room) -> Room:
    """Return what one copy takes, at most, after rounding: `room` is the most that it takes before.

    Up to 1024 tokens one segment holds what is missing. Beyond, less than an eighth of the tokens is missing,
    and a segment can hold as many as the longest of the batch, so as the mean.
    """
    fillers = 1 if room.tokens <= 16 * TOKENS else room.sequences // 8 + 1
    return Room(round_tokens(room.tokens), _power_of_two(room.sequences + fillers, SEGMENTS))


def round_tokens(count: int) -> int:
    """Round up to a multiple of 64, beyond 1024 of an eighth of the power of two at or below."""
    step = max(TOKENS, (1 << (count.bit_length() - 1)) // 8)
    return -(-count // step) * step


def _power_of_two(count: int, least: int) -> int:
    return max(least, 1 << (count - 1).bit_length())
