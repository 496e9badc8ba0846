"""Scoring and training in SGLang's own `ModelRunner`: beside `plugin.py` all that imports it."""
