"""What sequences begin with alike is there once, and each sequence is there."""

from time import perf_counter

import numpy as np
import pytest

from sglang_mezo_plugin.engine.batch.prefix_tree import PrefixTree, Segment, build

Sequences = list[tuple[int, ...]]


def random_sequences(seed: int) -> Sequences:
    """One to nine sequences of one to eight tokens, of so few kinds that many begin alike."""
    draw = np.random.default_rng(seed)
    kinds, count = draw.integers(1, 4), draw.integers(1, 10)
    return [tuple(draw.integers(kinds, size=draw.integers(1, 9)).tolist()) for _ in range(count)]


def check(tree: PrefixTree, sequences: Sequences) -> None:
    """Each path spells its sequence; the tokens before one in it are those of its segment and its prefix."""
    assert [tuple(tree.tokens[i] for i in path) for path in tree.paths] == sequences
    starts = [segment.start for segment in tree.segments]
    assert starts == np.cumsum([0, *(segment.length for segment in tree.segments)])[:-1].tolist()
    owner = [segment for segment in tree.segments for _ in range(segment.length)]
    assert len(owner) == len(tree.tokens)
    for path in tree.paths:
        for position, index in enumerate(path):
            segment = owner[index]
            assert path[:position] == (*segment.prefix, *range(segment.start, index))
            assert all(earlier < segment.start for earlier in segment.prefix)


def segments_of(sequences: Sequences) -> int:
    """Count the prefixes after which a segment begins: those where sequences part, or where one ends."""
    prefixes = {sequence[:end] for sequence in sequences for end in range(1, len(sequence) + 1)}
    children = [prefix[:-1] for prefix in prefixes]
    return sum(not p or children.count(p) > 1 or p in sequences for p in children)


@pytest.mark.parametrize("seed", range(300))
def test_random_sequences(seed: int) -> None:
    sequences = random_sequences(seed)
    tree = build(sequences)
    check(tree, sequences)
    index_of = {
        sequence[: end + 1]: path[end]
        for sequence, path in zip(sequences, tree.paths, strict=True)
        for end in range(len(sequence))
    }
    assert sorted(index_of.values()) == list(range(len(tree.tokens)))  # each prefix has one token of its own
    assert len(tree.segments) == segments_of(sequences)
    assert tree.hit_rate == 1 - len(index_of) / sum(map(len, sequences))


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_reused_unless_asked_for(seed: int) -> None:
    sequences = random_sequences(seed)
    tree = build(sequences, reuse=False)
    check(tree, sequences)
    assert tree.tokens == sum(sequences, ())
    assert [(len(segment.prefix), segment.length) for segment in tree.segments] == [
        (0, len(sequence)) for sequence in sequences
    ]
    assert tree.hit_rate == 0


KNOWN = {
    "one": ([(5, 6)], PrefixTree((5, 6), (Segment(0, 2, ()),), ((0, 1),)), 0.0),
    "duplicates": ([(5, 6)] * 4, PrefixTree((5, 6), (Segment(0, 2, ()),), ((0, 1),) * 4), 0.75),
    "the second is a prefix of the first": (
        [(5, 6, 7, 8), (5, 6)],
        PrefixTree((5, 6, 7, 8), (Segment(0, 2, ()), Segment(2, 2, (0, 1))), ((0, 1, 2, 3), (0, 1))),
        1 / 3,
    ),
    "options of two questions": (
        [(1, 2, 3, 4), (1, 2, 5), (1, 2, 3), (9, 2)],
        PrefixTree(
            (1, 2, 3, 4, 5, 9, 2),
            (
                Segment(0, 2, ()),
                Segment(2, 1, (0, 1)),
                Segment(3, 1, (0, 1, 2)),
                Segment(4, 1, (0, 1)),
                Segment(5, 2, ()),
            ),
            ((0, 1, 2, 3), (0, 1, 4), (0, 1, 2), (5, 6)),
        ),
        5 / 12,
    ),
}


@pytest.mark.parametrize(("sequences", "tree", "hit_rate"), KNOWN.values(), ids=KNOWN)
def test_known_trees(sequences: Sequences, tree: PrefixTree, hit_rate: float) -> None:
    assert build(sequences) == tree
    assert build([list(sequence) for sequence in sequences]) == tree
    assert tree.hit_rate == pytest.approx(hit_rate, abs=1e-15)


@pytest.mark.parametrize(
    "sequences",
    [
        [(7,) * 20_000, (7,) * 19_999],
        [tuple(range(20_000 - i)) for i in range(16)],
        [tuple(range(length)) for length in range(1, 200)],
        [(7,) * 1200 + (i,) for i in range(16)],
    ],
    ids=["two long", "long, one token apart", "each a prefix of the next", "few-shot prompts"],
)
def test_twenty_thousand_tokens_take_no_time(sequences: Sequences) -> None:
    """Milliseconds, that is; the bound is for what takes the square of the length."""
    start = perf_counter()
    build(sequences)
    assert perf_counter() - start < 0.5
