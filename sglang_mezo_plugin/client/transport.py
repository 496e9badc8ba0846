"""Requests to a server: JSON there and back, retried with backoff.

Over aiohttp, one of the two HTTP libraries that SGLang itself requires. Hundreds of completions are in flight
at once, and closing their connections, which is what a cancelled task of asyncio does, makes the server give
them up; requests, the other library, would need a thread for each and could not cancel any.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any, TypeVar
from urllib.parse import urlsplit

import aiohttp

from sglang_mezo_plugin.client.errors import Refused, TimedOut, Transient, Unauthorized, Unreachable
from sglang_mezo_plugin.errors import UserError

T = TypeVar("T")
CONNECT_SECONDS = 10
# A server that is overloaded, starting or restarting, or a proxy in front of it.
TRANSIENT_STATUSES = {408, 429, 500, 502, 503, 504}
# SGLang lists all adapters in some messages, and repeats the request in others.
REASON_LENGTH = 300


@dataclass(frozen=True)
class Retries:
    """How often a request is sent again. Waits double from `first_wait` to `longest_wait` seconds.

    count: after an answer such as 503, or a lost connection. patience: seconds, for a server that is down:
    about as long as it takes to restart.
    """

    count: int = 5
    patience: float = 300.0
    first_wait: float = 0.5
    longest_wait: float = 30.0


class Transport:
    """One server. Used by one event loop, between `open` and `close`.

    admin_api_key: for requests that change the server; SGLang wants it, and not the other one, where it was
    started with --admin-api-key. timeout: seconds for one request. UserError if url is none.
    """

    def __init__(
        self, url: str, api_key: str | None, admin_api_key: str | None, timeout: float, retries: Retries
    ) -> None:
        self.url = _checked(url)
        self._key = api_key
        self._admin_key = admin_api_key or api_key
        self._timeout = timeout
        self._retries = retries

    async def open(self) -> None:
        timeout = aiohttp.ClientTimeout(total=self._timeout, sock_connect=CONNECT_SECONDS)
        # The caller bounds what is in flight.
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout)

    async def close(self) -> None:
        await self._session.close()

    async def send(
        self,
        path: str,
        body: Mapping[str, Any] | None = None,
        admin: bool = False,
        patience: float | None = None,
    ) -> Any:
        """Return the answer to a GET, or to a POST if there is a body, as `once` does, with retries."""
        return await self.retrying(lambda: self.once(path, body, admin), patience)

    async def retrying(self, attempt: Callable[[], Awaitable[T]], patience: float | None = None) -> T:
        """Await `attempt()` until it neither raises Transient nor Unreachable, or for the last time.

        patience: in place of that of the retries.
        """
        patience = self._retries.patience if patience is None else patience
        start, failures, wait = monotonic(), 0, self._retries.first_wait
        while True:
            try:
                return await attempt()
            except Unreachable:
                if monotonic() - start + wait > patience:
                    raise
            except Transient:
                failures += 1
                if failures > self._retries.count:
                    raise
            # Spread, so that requests that failed together do not come again together.
            await asyncio.sleep(wait * random.uniform(0.5, 1))
            wait = min(2 * wait, self._retries.longest_wait)

    async def once(self, path: str, body: Mapping[str, Any] | None = None, admin: bool = False) -> Any:
        """Send one request, and return its answer: what its JSON says.

        Raises Unreachable, Unauthorized, Transient, TimedOut or Refused.
        """
        key = self._admin_key if admin else self._key
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        request = {"method": "GET"} if body is None else {"method": "POST", "json": body}
        where = f"{self.url}{path}"
        try:
            async with self._session.request(url=where, headers=headers, **request) as response:
                return self._read(where, response.status, await response.read(), admin)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise Unreachable(
                f"{self.url} cannot be reached ({_one_line(str(error))}): start the server, or "
                "correct --server"
            ) from None
        except TimeoutError:
            raise TimedOut(
                f"{where} did not answer within {self._timeout:g} s: ask for fewer tokens or lower the "
                "concurrency, or allow more time"
            ) from None
        except aiohttp.ClientError as error:
            raise Transient(
                f"{where} lost the connection ({_one_line(str(error))}): see the server's log, and resume"
            ) from None

    def _read(self, where: str, status: int, body: bytes, admin: bool) -> Any:
        reason = f"{status}: {_reason(body)}"
        if status in (401, 403):
            key = "--admin-api-key, or if it has none its --api-key" if admin else "--api-key"
            raise Unauthorized(f"{where} says {reason}: pass the key that the server has as {key}")
        if status in TRANSIENT_STATUSES:
            raise Transient(f"{where} still says {reason}: lower the concurrency, or see the server's log")
        if status >= 300:
            raise Refused(f"{where} says {reason}", status, _reason(body))
        try:
            return json.loads(body)
        except ValueError:
            raise Refused(
                f"{where} does not answer in JSON ({_reason(body)}): correct --server, it must be the root "
                "of an SGLang server",
                status,
                _reason(body),
            ) from None


def _checked(url: str) -> str:
    """Return a URL without the path that clients of OpenAI's API add to it."""
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc:
        raise UserError(f"--server must be like http://127.0.0.1:30000, not {url!r}")
    return url.rstrip("/").removesuffix("/v1")


def _reason(body: bytes) -> str:
    """Return the message of an answer: SGLang has five forms of it, and proxies have others."""
    text = body.decode(errors="replace")
    try:
        found = json.loads(text)
    except ValueError:
        found = text
    while isinstance(found, dict):
        found = next(
            (found[key] for key in ("error_message", "error", "message", "detail") if key in found), text
        )
    return _one_line(str(found)) or "no reason"


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= REASON_LENGTH else f"{line[:REASON_LENGTH]}..."
