"""Token sequences cut into segments, so that what several of them begin with is computed once."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from operator import eq


@dataclass(frozen=True)
class Segment:
    """Consecutive tokens of one or more sequences.

    start, length: where it lies in `PrefixTree.tokens`. prefix: indices in `PrefixTree.tokens` of all tokens
    before it, the first one first.
    """

    start: int
    length: int
    prefix: tuple[int, ...]


@dataclass(frozen=True)
class PrefixTree:
    """Sequences as a radix tree: each distinct prefix once.

    tokens: the ids to compute, segment after segment; a segment comes after those of its prefix.
    paths: for each sequence, the index in `tokens` of each of its tokens.
    """

    tokens: tuple[int, ...]
    segments: tuple[Segment, ...]
    paths: tuple[tuple[int, ...], ...]

    @property
    def hit_rate(self) -> float:
        """The fraction of tokens that need not be computed: a cache hit rate, in [0, 1)."""
        return 1 - len(self.tokens) / sum(len(path) for path in self.paths)


def build(sequences: Sequence[Sequence[int]], reuse: bool = True) -> PrefixTree:
    """Cut sequences where they part. Without `reuse` each of them is a segment of its own.

    sequences: at least one; none may be empty.
    """
    tokens: list[int] = []
    segments: list[Segment] = []
    paths: list[list[int]] = [[] for _ in sequences]
    pending = [list(range(len(sequences)))] if reuse else [[i] for i in range(len(sequences))]
    pending.reverse()
    while pending:
        group = pending.pop()
        begin = len(paths[group[0]])
        end = _common_length([sequences[i] for i in group], begin)
        if end > begin:
            first = sequences[group[0]]
            own = range(len(tokens), len(tokens) + end - begin)
            segments.append(Segment(own.start, len(own), tuple(paths[group[0]])))
            tokens.extend(first[begin:end])
            for i in group:
                paths[i].extend(own)
        branches: dict[int, list[int]] = {}
        for i in group:
            if len(sequences[i]) > end:
                branches.setdefault(sequences[i][end], []).append(i)
        pending.extend(reversed(branches.values()))
    return PrefixTree(tuple(tokens), tuple(segments), tuple(tuple(path) for path in paths))


def _common_length(group: list[Sequence[int]], begin: int) -> int:
    """Return the length of the prefix that all have, given that it is at least `begin`.

    What the least and the greatest of them have in common, all in between have: two are compared, not all.
    """
    if len(group) == 1:
        return len(group[0])
    rests = [tuple(sequence[begin:]) for sequence in group]
    return begin + sum(takewhile(bool, map(eq, min(rests), max(rests))))
