"""What talks to SGLang: nothing outside this folder, `server/` and `plugin.py` imports it."""
