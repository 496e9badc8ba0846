"""A run that is asked to stop ends its step first."""

import signal
import threading
from types import FrameType


class StopRequest:
    """Within it SIGINT and SIGTERM set `requested`; a SIGINT after either raises KeyboardInterrupt.

    The handlers before are put back afterwards. Python lets only the main thread handle signals: in another
    thread nothing is changed, and nothing ever requested.
    """

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> "StopRequest":
        numbers = (signal.SIGINT, signal.SIGTERM)
        main = threading.current_thread() is threading.main_thread()
        self._before = {number: signal.signal(number, self._request) for number in numbers} if main else {}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True
