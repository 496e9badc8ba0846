"""What can go wrong between a client and a server: one line each, with the server's URL and the cure."""

from sglang_mezo_plugin.errors import UserError


class ServerError(UserError):
    """A request that failed for good."""


class Unreachable(ServerError):
    """No connection: every request to this server would fail."""


class Unauthorized(ServerError):
    """The server wants another key: every request of this kind would fail."""


class Transient(ServerError):
    """An answer or a lost connection that the same request may not meet again."""


class TimedOut(ServerError):
    """The server took the request and did not answer it in time. It would take as long again."""


class Refused(ServerError):
    """The server refuses this request. status: of HTTP; reason: in its own words, on one line."""

    def __init__(self, message: str, status: int, reason: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
