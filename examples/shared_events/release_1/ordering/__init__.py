"""The service that takes orders, and publishes."""
