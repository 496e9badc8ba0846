"""MeZO fine-tuning inside SGLang: the plugin, and the command that patches SGLang for it."""

__version__ = "0.1.0"
