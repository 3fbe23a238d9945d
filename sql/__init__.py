"""pgbus's SQL: ``migrations/`` makes the schema, ``queries/`` is what the store sends."""
