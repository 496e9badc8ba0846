"""What the user can mend: one line that names the thing and the cure."""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """Bad input. Its message is one line: what is wrong, in which file or option, and what to do."""


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End a command with one line on stderr in place of a traceback.

    Exit code 2 for a UserError; 130, as shells have it, for Ctrl-C. Training itself ends after its step.
    """
    try:
        yield
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep what libraries say about themselves away from a command's output; errors still come through."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)
