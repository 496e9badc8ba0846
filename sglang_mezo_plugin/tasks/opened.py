"""Opening a file of rows, packed or not, with the errors of both in one line."""

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from sglang_mezo_plugin.errors import UserError


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Give a file's bytes, those of a .gz file unpacked. UserError if they cannot be read to the end."""
    try:
        if path.suffix == ".gz":
            with gzip.open(path) as unpacked, io.BufferedReader(unpacked) as file:
                yield file
        else:
            with path.open("rb") as file:
                yield file
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path}: not a whole gzip file ({error}): pack or fetch it again") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}): name a file that you may read") from None
