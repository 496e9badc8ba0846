"""All ranks start at once: what leads and what follows does without SGLang, which takes half a minute."""

import subprocess
import sys

START = "import sys; from sglang_mezo_plugin import evaluate, train; sys.exit('sglang' in sys.modules)"


def test_commands_start_ranks_before_the_engine_is_imported() -> None:
    subprocess.run([sys.executable, "-c", START], check=True)
