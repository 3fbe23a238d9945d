"""Every error that pgbus raises on purpose.

::

    PgbusError
    ├── ConfigurationError      the code or its environment is set up wrongly
    │   ├── InvalidName         a subscription name pgmq or pgbus cannot carry
    │   ├── InvalidTopic        a topic nobody could be bound to
    │   └── InvalidPattern      a pattern that AMQP 0-9-1 does not know
    ├── PayloadError            a body, key or headers that cannot be stored or read back
    │   └── PayloadTooLarge     … because of their size
    ├── Unroutable              no subscription matches, and the bus was told to care
    ├── LeaseLost               another worker holds the key now; nothing was changed
    ├── SchemaConflict          an event type changed under the same version
    ├── IncompatibleDatabase    the schema in the database is not one this pgbus can use
    └── StoreError              PostgreSQL refused or could not be reached (see ``__cause__``)

Messages name what was wrong and what to do. They never carry a payload or a password.
"""


class PgbusError(Exception):
    """The base of every error that pgbus raises on purpose.

    ``item`` is the place (from 0) of the event at fault among those given to ``publish_many``; the
    error's cause is then the same without it. Otherwise it is ``None``.
    """

    item: int | None = None


class ConfigurationError(PgbusError):
    """The code or its environment is set up wrongly; running again will not help."""


class InvalidName(ConfigurationError):
    """A subscription name that pgmq or pgbus cannot carry."""


class InvalidTopic(ConfigurationError):
    """A topic that no pattern could ever be bound to."""


class InvalidPattern(ConfigurationError):
    """A pattern that AMQP 0-9-1 topic exchanges do not know."""


class PayloadError(PgbusError):
    """A body, key or headers that PostgreSQL could not store or read back unchanged."""


class PayloadTooLarge(PayloadError):
    """A body, key or headers over the bus's limit."""


class Unroutable(PgbusError):
    """No subscription matches the topic, and ``on_unroutable="raise"``; nothing was stored."""


class LeaseLost(PgbusError):
    """The worker no longer holds the key's lease: what it tried to write was refused."""


class SchemaConflict(PgbusError):
    """An event type's schema changed under an unchanged version."""


class IncompatibleDatabase(PgbusError):
    """The pgbus schema in the database was made by a release this one cannot work with."""


class StoreError(PgbusError):
    """PostgreSQL refused a statement or could not be reached; the driver's error is its cause.

    ``outcome_unknown`` is true where the connection broke during a commit: the change may or may
    not have been stored. Publishing again with the same ``id`` is then safe.
    """

    def __init__(self, message: str, *, outcome_unknown: bool = False) -> None:
        super().__init__(message)
        self.outcome_unknown = outcome_unknown
