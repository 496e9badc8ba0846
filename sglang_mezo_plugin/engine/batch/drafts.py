"""The numbers of a batch, before copies are made of it and the engine sees it: tokens, segments, labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sglang_mezo_plugin.engine.batch import prefix_tree
from sglang_mezo_plugin.engine.batch.buckets import Shape
from sglang_mezo_plugin.engine.batch.packing import Fields
from sglang_mezo_plugin.engine.batch.prefix_tree import PrefixTree
from sglang_mezo_plugin.tasks.example import Example


@dataclass(frozen=True)
class Draft:
    """One copy of a batch.

    rows: the tokens from which something is predicted, each once. targets, target_rows: the tokens predicted,
    and for each its place in `rows`. counts: tokens of each option of each example, in order; they sum to
    the number of targets. asked_for: tokens of all sequences, reused or not.
    """

    tree: PrefixTree
    rows: np.ndarray
    targets: np.ndarray
    target_rows: np.ndarray
    counts: tuple[tuple[int, ...], ...]
    asked_for: int

    @classmethod
    def of(cls, examples: Sequence[Example], reuse: bool) -> Draft:
        """Draft a batch; with `reuse`, what sequences begin with alike is in it once."""
        sequences = [example.prompt + option[:-1] for example in examples for option in example.options]
        tree = prefix_tree.build(sequences, reuse)
        counts = tuple(tuple(len(option) for option in example.options) for example in examples)
        return cls(tree, *_labels(examples, tree), counts, sum(map(len, sequences)))

    def shape(self, copies: int) -> Shape:
        """Return the sizes that `copies` of it have as they are."""
        prefixes = [len(segment.prefix) for segment in self.tree.segments]
        return Shape(
            copies=copies,
            tokens=len(self.tree.tokens),
            segments=len(prefixes),
            longest=max(len(segment.prefix) + segment.length for segment in self.tree.segments),
            prefixes=copies * sum(prefixes),
            rows=len(self.rows),
            targets=len(self.targets),
        )

    def fill(self, arrays: Mapping[str, np.ndarray], shape: Shape) -> None:
        """Write every number of `fields(shape)`: nothing of what was there before is left.

        Where the shape is larger than the batch, tokens 0 follow, at position 0, in segments of their own,
        some of which may be empty. Labels are followed by token 0, predicted from the first row.
        """
        tokens, segments = self.tree.tokens, self.tree.segments
        fillers, missing = shape.segments - len(segments), shape.tokens - len(tokens)
        filling = [(missing + i) // fillers for i in range(fillers)]  # as even as can be
        position = np.concatenate([len(s.prefix) + np.arange(s.length) for s in segments])
        lengths = np.array([s.length for s in segments] + filling)
        prefixes = np.array([len(s.prefix) for s in segments] + [0] * fillers)
        _fill(arrays["input_ids"], np.array(tokens), shape.copies)
        _fill(arrays["positions"], position, shape.copies)
        _fill(arrays["rows"], self.rows, then=self.rows[0])
        _fill(arrays["targets"], self.targets)
        _fill(arrays["target_rows"], self.target_rows)
        _fill(arrays["extend_prefix_lens"], prefixes, shape.copies)
        _fill(arrays["extend_seq_lens"], lengths, shape.copies)
        _fill(arrays["seq_lens"], prefixes + lengths, shape.copies)
        _fill(arrays["orig_seq_lens"], prefixes + lengths, shape.copies)
        arrays["extend_start_loc"][:] = np.cumsum(arrays["extend_seq_lens"]) - arrays["extend_seq_lens"]
        # Slot 0 and row 0 of the pools are for padding.
        arrays["out_cache_loc"][:] = 1 + np.arange(shape.copies * shape.tokens)
        arrays["req_pool_indices"][:] = 1 + np.arange(shape.copies * shape.segments)
        arrays["first_kv_slots"][:] = 1 + shape.tokens * np.arange(shape.copies)
        prefix_paths = [s.prefix for s in segments] + [()] * fillers
        starts = np.cumsum(lengths) - lengths  # segments lie one behind the other
        for path, prefix, start, length in zip(arrays["paths"], prefix_paths, starts, lengths, strict=True):
            end = len(prefix) + length
            path[: len(prefix)] = prefix
            path[len(prefix) : end] = np.arange(start, start + length)
            path[end:] = 0


def fields(shape: Shape) -> Fields:
    """Return the tensors of a batch: those of a `ForwardBatch`, of the labels, and where the pool has what.

    paths: of each segment of a copy, the tokens of its sequence, counted within the copy. first_kv_slots: for
    each copy, the KV slot of its first token.
    """
    tokens, segments = (shape.copies * shape.tokens,), (shape.copies * shape.segments,)
    wide = {
        "input_ids": tokens,
        "positions": tokens,
        "out_cache_loc": tokens,
        "req_pool_indices": segments,
        "seq_lens": segments,
        "rows": (shape.rows,),
        "targets": (shape.targets,),
        "target_rows": (shape.targets,),
    }
    narrow = {
        "orig_seq_lens": segments,
        "extend_seq_lens": segments,
        "extend_prefix_lens": segments,
        "extend_start_loc": segments,
        "first_kv_slots": (shape.copies,),
        "paths": (shape.segments, shape.longest),
    }
    return {name: ("int64", sizes) for name, sizes in wide.items()} | {
        name: ("int32", sizes) for name, sizes in narrow.items()
    }


def _labels(examples: Sequence[Example], tree: PrefixTree) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the rows that predict options' tokens, the tokens, and each one's place among the rows."""
    predicting: list[int] = []
    targets: list[int] = []
    paths = iter(tree.paths)
    for example in examples:
        for option in example.options:
            predicting.extend(next(paths)[len(example.prompt) - 1 :])
            targets.extend(option)
    rows, target_rows = np.unique(np.array(predicting), return_inverse=True)
    return rows, np.array(targets), target_rows


def _fill(array: np.ndarray, values: np.ndarray, copies: int = 1, then: int = 0) -> None:
    """Write values to the beginning of each copy's part of an array, and `then` to the rest of it."""
    by_copy = array.reshape(copies, -1)
    by_copy[:, : len(values)] = values
    by_copy[:, len(values) :] = then
