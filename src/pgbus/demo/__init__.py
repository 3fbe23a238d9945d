"""The demonstration: a small shop on a bus, which watches itself and judges itself at the end."""

from pgbus.demo.stage import play

__all__ = ["play"]
