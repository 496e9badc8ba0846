"""Write Countdown problems to learn from rewards on: 200 to train, 2,000 to test.

As many as in "Evolution Strategies at Scale" (Qiu et al. 2025). The files are JSON Lines {"prompt",
"numbers", "target", "solution"}; every problem has a solution, and none is in both files. They are made from
a seed: nothing is fetched, the same command writes the same bytes, and another --train-size leaves test.jsonl
as it is.

    .venv/bin/python examples/countdown/prepare.py --output-dir data
"""

import argparse
import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from problems import Problem, problems

from sglang_mezo_plugin.errors import UserError, one_line_errors

TASK = "countdown"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output-dir", type=Path, default=Path("data"), help="default: data")
    parser.add_argument("--train-size", type=int, default=200, help="rows of train.jsonl; default: 200")
    parser.add_argument("--test-size", type=int, default=2000, help="rows of test.jsonl; default: 2000")
    parser.add_argument("--seed", type=int, default=0, help="of all problems; default: 0")
    options = parser.parse_args(arguments)
    with one_line_errors():
        for option, size in (("--train-size", options.train_size), ("--test-size", options.test_size)):
            if size < 1:
                raise UserError(f"{option} must be 1 or more, not {size}")
        # The test problems come first in the stream, so that --train-size does not move them.
        stream = problems(options.seed)
        test, train = list(islice(stream, options.test_size)), list(islice(stream, options.train_size))
        folder = options.output_dir / TASK
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write(train, folder / "train.jsonl")
            write(test, folder / "test.jsonl")
        except OSError as error:
            raise UserError(f"--output-dir {folder}: {error.strerror}: choose another folder") from None


def write(rows: Sequence[Problem], path: Path) -> None:
    """Write JSON Lines, whole or not at all, and say what they are."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text("".join(f"{json.dumps(row.record())}\n" for row in rows), encoding="utf-8")
    partial.replace(path)
    share = sum(len(row.numbers) == 3 for row in rows) / len(rows)
    print(f"{path}: {len(rows):,} problems, {share:.0%} with three numbers, the others with four")


if __name__ == "__main__":
    main()
