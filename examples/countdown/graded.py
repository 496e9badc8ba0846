"""A reward for models that are too small for Countdown: it says how near an answer is, not only whether."""

import re
from collections.abc import Mapping
from typing import Any

from sglang_mezo_plugin.rewards import countdown


def reward(prompt: str, completion: str, record: Mapping[str, Any]) -> float:
    """Return Countdown's reward, and 0.5 times the share of the problem's numbers that the text mentions."""
    mentioned = set(map(int, re.findall(r"\b[0-9]{1,6}\b", completion)))
    share = sum(number in mentioned for number in record["numbers"]) / len(record["numbers"])
    return countdown.reward(prompt, completion, record) + 0.5 * share
