"""Adapters and checkpoints as files on disk. No engine is needed."""
