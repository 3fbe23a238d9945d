"""How fast pgbus is, beside its floors and its peers; see ``python -m benchmarks --help``."""
