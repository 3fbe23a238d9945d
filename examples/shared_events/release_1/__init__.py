"""Release 1."""
