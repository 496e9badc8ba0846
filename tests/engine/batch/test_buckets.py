"""Buckets: how large they are, and that what a batch is in them is whole."""

import numpy as np
import pytest
import tiny_models
import torch

from sglang_mezo_plugin.engine.batch.buckets import bucket_of, bucket_room, round_tokens
from sglang_mezo_plugin.engine.batch.drafts import Draft, fields
from sglang_mezo_plugin.engine.batch.packing import arrays as arrays_of
from sglang_mezo_plugin.engine.batch.packing import packed_size, views
from sglang_mezo_plugin.engine.room import largest_batch

CONTEXT = 96


@pytest.mark.parametrize("size", range(1, 30))
@pytest.mark.parametrize("reuse", [True, False])
def test_every_number_of_a_bucket_is_written(size: int, reuse: bool) -> None:
    draft = Draft.of(tiny_models.make_batch(size, seed=size).examples, reuse)
    exact = draft.shape(2)
    shape = bucket_of(exact, CONTEXT)
    assert bucket_of(shape, CONTEXT) == shape
    stretch = torch.full((packed_size(fields(shape)),), 0x81, dtype=torch.uint8)
    draft.fill(arrays_of(stretch, fields(shape)), shape)
    arrays = {name: tensor.numpy() for name, tensor in views(stretch, fields(shape)).items()}
    assert all(array.min() >= 0 for array in arrays.values())
    tokens, lengths = 2 * shape.tokens, arrays["extend_seq_lens"]
    assert lengths.sum() == tokens and lengths.max() <= shape.longest <= CONTEXT
    assert arrays["extend_prefix_lens"].sum() == exact.prefixes <= shape.prefixes
    assert np.array_equal(arrays["seq_lens"], lengths + arrays["extend_prefix_lens"])
    assert arrays["positions"].max() < arrays["seq_lens"].max() <= exact.longest + 64
    assert arrays["extend_start_loc"].tolist() == [0, *np.cumsum(lengths)[:-1]]
    own = [
        path[end - n : end]
        for path, n, end in zip(arrays["paths"], lengths, arrays["seq_lens"], strict=False)
    ]
    assert np.concatenate(own).tolist() == list(range(shape.tokens))
    assert arrays["first_kv_slots"].tolist() == [1, 1 + shape.tokens]
    assert arrays["out_cache_loc"].tolist() == list(range(1, 1 + tokens))
    ids = arrays["input_ids"].reshape(2, -1)
    assert np.array_equal(ids[0], ids[1]) and ids[0].tolist()[: exact.tokens] == list(draft.tree.tokens)
    assert not ids[:, exact.tokens :].any() and arrays["rows"].max() < exact.tokens


def test_buckets_are_few_and_cost_little() -> None:
    for count in range(1, 20_000):
        rounded = round_tokens(count)
        assert count <= rounded < count + max(64, count / 8) and round_tokens(rounded) == rounded
    assert [round_tokens(count) for count in (1, 64, 65, 1024, 1025, 2048, 2049)] == [
        *(64, 64, 128, 1024, 1152, 2048, 2304)
    ]
    assert len({round_tokens(count) for count in range(1, 4097)}) == 16 + 8 + 8


def test_there_is_room_for_the_bucket_of_every_batch() -> None:
    draw = np.random.default_rng(0)
    for seed in range(300):
        examples = tiny_models.make_batch(int(draw.integers(1, 80)), seed).examples
        for reuse in (True, False):
            room = bucket_room(largest_batch(examples, len(examples), reuse))
            bucket = bucket_of(Draft.of(examples, reuse).shape(2), CONTEXT)
            assert bucket.tokens <= room.tokens and bucket.segments <= room.sequences
