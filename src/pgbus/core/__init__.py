"""Decisions without I/O: what is valid, what it means, what happens next."""
