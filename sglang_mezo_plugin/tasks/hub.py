"""Rows of data sets of the Hugging Face Hub, by the `datasets` library."""

from collections.abc import Iterable, Iterator
from typing import Any

from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.tasks.fields import Row


def hub_rows(source: str) -> Iterator[tuple[Row, str]]:
    """Yield the rows of a data set, and its name and the row, from 0, for messages.

    source: "name", "name:split" or "name/config:split"; the split is "train" by default. A name may have an
    owner, as in "owner/name/config:split": where "a/b" can be read both ways, the data set "a/b" comes first.
    UserError if the library cannot load it: unknown, not reached, no such split.
    """
    name, _, split = source.partition(":")
    first, _, last = name.rpartition("/")
    readings: list[tuple[str, str | None]] = [(name, None)] if name.count("/") < 2 else []
    if first:
        readings.append((first, last))
    requests = [{"path": path, "name": config, "split": split or "train"} for path, config in readings]
    cure = "check its name, configuration and split, and the network"
    return numbered(load(source, requests, cure), source)


def load(source: str, requests: list[dict[str, Any]], cure: str) -> Iterable[Row]:
    """Return what the first request loads; a later one counts if those before were not found or reached."""
    import datasets  # slow, and needed for none of the .jsonl files
    from datasets.exceptions import DatasetNotFoundError, DatasetsError

    failure: Exception | None = None
    for request in requests:
        try:
            return datasets.load_dataset(**request)
        except (DatasetNotFoundError, ConnectionError) as error:
            failure = failure or error
        except (DatasetsError, OSError, ValueError, RuntimeError) as error:
            failure = error.__cause__ or error
            break
    reason = " ".join(str(failure).split())
    raise UserError(f"{source}: `datasets` cannot load it ({reason}): {cure}")


def numbered(rows: Iterable[Row], source: str) -> Iterator[tuple[Row, str]]:
    return ((row, f"{source} row {number}") for number, row in enumerate(rows))
