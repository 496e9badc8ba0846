"""Runs in place of sglang.launch_server: two processes, with the faults that its options ask for."""

import signal
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

SILENT, TRACEBACK = "--silent", "--traceback"
STUBBORN, STARTING = "--stubborn", "--starting"
ASKED_TO_END = "asked to end"
LOG = """[2026-01-01 00:00:00] Loading

[2026-01-01 00:00:01] Scheduler hit an exception: Traceback (most recent call last):
  File "x.py", line 1, in <module>
    f()
some.module.LoadError: no weights
  in the folder
[2026-01-01 00:00:02] Received sigquit from a child process. It usually means the child failed.
"""


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(503 if STARTING in sys.argv or self.path != "/health" else 200)
        self.end_headers()


def end(number: int, frame: object) -> None:
    print(ASKED_TO_END, flush=True)
    if STUBBORN not in sys.argv:
        sys.exit()


def main() -> None:
    if SILENT in sys.argv:
        sys.exit(3)
    if TRACEBACK in sys.argv:
        print(LOG)
        sys.exit(1)
    signal.signal(signal.SIGTERM, end)
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    port = int(sys.argv[sys.argv.index("--port") + 1])
    HTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    main()
