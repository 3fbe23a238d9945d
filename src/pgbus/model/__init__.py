"""Values that every layer shares: no I/O, no clock, no decisions."""
