"""Connection strings that do not show their password."""

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgbus.errors import ConfigurationError

_SECRETS = {"password", "sslpassword", "oauth_client_secret"}


class Dsn(str):
    """A connection string whose ``repr`` hides the password."""

    __slots__ = ()

    def __repr__(self) -> str:
        try:
            parts = conninfo_to_dict(self)
        except psycopg.Error:
            return "'<connection string>'"
        for name in _SECRETS & parts.keys():
            parts[name] = "***"
        return repr(make_conninfo("", **parts))


def check_dsn(dsn: str | None) -> None:
    """Raise unless ``dsn`` is one, or ``None``.

    Raises:
        ConfigurationError: it is neither a URI nor a connection string, or would show a password.
    """
    if dsn is None:
        return
    try:
        parts = conninfo_to_dict(dsn)
    except psycopg.Error:
        # libpq's message would quote the string, and with it a password.
        raise ConfigurationError(
            "the DSN is neither a PostgreSQL URI nor a libpq connection string"
        ) from None
    if "@" in str(parts.get("host", "")):
        # An error would show the host, and with it the rest of the password.
        raise ConfigurationError(
            "the DSN's host holds an '@': write an '@' in the password as %40, in a URI"
        )
