"""What a completion is worth: functions of (prompt, completion, record), named as module:function."""

from sglang_mezo_plugin.rewards.loading import CheckedReward, Reward, exact_match, load_reward

__all__ = ["CheckedReward", "Reward", "exact_match", "load_reward"]
