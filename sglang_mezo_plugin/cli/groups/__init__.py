"""The options in groups, a file for what belongs together. `cli.options` makes of them those of a command."""
