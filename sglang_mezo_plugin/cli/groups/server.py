"""Options of the server that is asked."""

import os
from dataclasses import dataclass

from sglang_mezo_plugin.bounds import Bound
from sglang_mezo_plugin.cli.declaring import Options, option


@dataclass(frozen=True, kw_only=True)
class Asked(Options):
    title = "server"

    server: str | None = option(None, one_of="server", metavar="URL", help="of a running SGLang server")
    launch_server: bool = option(
        False,
        one_of="server",
        help="launch one, and end it; every option of SGLang's own server passes through to it",
    )
    api_key: str | None = option(None, help="of --server; default: SGLANG_API_KEY of the environment")
    admin_api_key: str | None = option(None, help="of --server, if it has one")
    concurrency: int = option(
        256, bound=Bound(at_least=1, finite=True), help="completions in flight; default: {default}"
    )
    timeout: float = option(
        600, bound=Bound(at_least=0.001, finite=True), help="seconds for a completion; default: {default}"
    )
    patience: float = option(
        300,
        bound=Bound(at_least=0, finite=True),
        help="seconds to wait for a server that is down; default: {default}",
    )
    adapter_folder: str | None = option(
        None,
        metavar="DIR",
        help="pass adapters through this folder, which the server reads too: faster than with the requests; "
        "default with --launch-server: a folder in memory",
    )

    @property
    def key(self) -> str | None:
        """Return what --server wants to be told."""
        return self.api_key or os.environ.get("SGLANG_API_KEY")
