"""The entry point that SGLang calls in each of its processes (group `sglang.srt.plugins`).

SGLang only logs what a plugin raises, so a broken plugin is silent. This one therefore says in the log of
every process whether the engine under it is the patched one.
"""

import logging

from sglang_mezo_plugin.patching.diffs import PatchError
from sglang_mezo_plugin.patching.series import state
from sglang_mezo_plugin.patching.targets import find_target

logger = logging.getLogger(__name__)


def register() -> None:
    """Report the state of the SGLang that runs."""
    try:
        if state(find_target()) == "patched":
            logger.info("sglang-mezo: SGLang is patched")
        else:
            logger.warning(
                "sglang-mezo: SGLang is not patched; run: python -m sglang_mezo_plugin.patch apply"
            )
    except PatchError as error:
        logger.warning("sglang-mezo: %s", error)
