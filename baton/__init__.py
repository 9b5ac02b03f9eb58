"""The command line; wires processes and knows every room."""
