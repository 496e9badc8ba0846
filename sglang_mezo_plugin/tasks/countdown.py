"""Where `--reward sglang_mezo_plugin.tasks.countdown:reward` finds what is now in `rewards`."""

from sglang_mezo_plugin.rewards.countdown import accuracy, reward

__all__ = ["accuracy", "reward"]
