"""Release 2."""
