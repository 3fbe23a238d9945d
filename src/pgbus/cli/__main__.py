"""``python -m pgbus.cli``: the same as the command ``pgbus``."""

from pgbus.cli import main

main()
