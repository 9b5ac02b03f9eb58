"""The subcommands, one a file; each file is imported only when its command runs."""
