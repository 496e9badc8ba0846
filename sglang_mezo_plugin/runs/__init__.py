"""A run on disk: its journal, the folder around it, and what people see of it."""
