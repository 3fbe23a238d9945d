"""The service that writes bills, and subscribes."""
