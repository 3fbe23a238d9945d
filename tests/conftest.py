"""The fixtures of every test: a PostgreSQL, a database of its own, and rules of hygiene.

The hard limit of a test's time is pytest's own ``faulthandler_timeout`` in pyproject.toml: it
prints where every thread stands and ends the run.
"""

import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from psycopg.conninfo import conninfo_to_dict

from pgbus import Bus
from pgbus.threads import engine
from tests.proxy import FaultProxy
from tests.servers import NoServerError, PostgresInstance, Server, choose
from tests.servers.providers import NAMES
from tests.unhurried import LIMITS, SECONDS

THREADS_MAY_LINGER = 10.0

# A machine that stands still for 200 ms is no fault of the code.
settings.register_profile("pgbus", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("pgbus")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("postgres", "where PostgreSQL comes from")
    group.addoption("--pg", choices=NAMES, default="embedded", help="default: embedded")
    group.addoption(
        "--pg-dsn",
        default=os.environ.get("PGBUS_TEST_DSN"),
        help="the server of --pg=dsn, where databases are created (default: $PGBUS_TEST_DSN)",
    )
    group.addoption("--pg-bin", type=Path, help="run the PostgreSQL of this folder of programs")
    group.addoption("--pg-major", type=int, help="fail unless PostgreSQL has this major version")


def pytest_configure(config: pytest.Config) -> None:
    # A developer's own settings must neither steer a test elsewhere nor let it touch a database
    # that is not the suite's.
    for name in [name for name in os.environ if name.startswith("PG")]:
        del os.environ[name]
    # A script's background job (make test &, nohup) ignores Ctrl-C, and so would every process
    # that a test starts in order to interrupt it.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return two for each processor: most tests wait for something for half of their time."""
    return 2 * (os.cpu_count() or 1)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Write what was logged in a way that one process of pytest can send to another."""
    report = yield
    report.sections = [
        (title, text.encode("utf-8", "backslashreplace").decode())
        for title, text in report.sections
    ]
    return report


def pytest_report_header(config: pytest.Config) -> str:
    return f"postgres: {config.getoption('--pg-bin') or config.getoption('--pg')}"


@pytest.fixture(scope="session")
def server(pytestconfig: pytest.Config) -> Iterator[Server]:
    """The PostgreSQL of the suite. Never stop it: ``own_server`` is for that."""
    try:
        server = choose(
            pytestconfig.getoption("--pg"),
            dsn=pytestconfig.getoption("--pg-dsn"),
            bin_dir=pytestconfig.getoption("--pg-bin"),
        )
        server.start()
    except NoServerError as reason:
        pytest.exit(f"no PostgreSQL for the tests: {reason}", returncode=2)
    try:
        wanted, found = pytestconfig.getoption("--pg-major"), server.major
        if wanted is not None and wanted != found:
            pytest.exit(f"--pg-major={wanted}, but this is PostgreSQL {found}", returncode=2)
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def pg_major(server: Server) -> int:
    """The major version of the server: 14 to 18."""
    return server.major


@pytest.fixture(autouse=True)
def unhurried() -> Iterator[None]:
    """A stop settles and signs off, however slow the machine is."""
    with pytest.MonkeyPatch.context() as patching:  # a test may undo those of its own
        for limit in LIMITS:
            patching.setattr(engine, limit, SECONDS)
        yield


@pytest.fixture
def new_database(server: Server) -> Iterator[Callable[..., str]]:
    """Make databases that live as long as the test: ``new_database(template=None) -> dsn``."""
    made: list[str] = []

    def create(template: str | None = None) -> str:
        made.append(server.create_database(template))
        return made[-1]

    yield create
    for dsn in made:
        server.drop_database(dsn)


@pytest.fixture
def dsn(new_database: Callable[..., str]) -> str:
    """A fresh, empty database."""
    return new_database()


@pytest.fixture(scope="session")
def installed_template(server: Server) -> Iterator[str]:
    """The name of a database with pgbus in it, to copy: quicker than to install."""
    dsn = server.create_database()
    with Bus(dsn) as bus:
        bus.install()
    yield str(conninfo_to_dict(dsn)["dbname"])
    server.drop_database(dsn)


@pytest.fixture
def bus_dsn(new_database: Callable[..., str], installed_template: str) -> str:
    """A fresh database with pgbus installed."""
    return new_database(installed_template)


@pytest.fixture
def make_bus(bus_dsn: str) -> Iterator[Callable[..., Bus]]:
    """Make buses on one database, closed at the end: ``make_bus(**settings)``."""
    made: list[Bus] = []

    def make(**settings: Any) -> Bus:
        made.append(Bus(bus_dsn, **settings))
        return made[-1]

    yield make
    for bus in made:
        bus.close()


@pytest.fixture
def bus(make_bus: Callable[..., Bus]) -> Bus:
    """A bus with default settings on a fresh database."""
    return make_bus()


@pytest.fixture
def own_server(server: Server) -> Iterator[Callable[..., PostgresInstance]]:
    """Start clusters that the test may stop and kill: ``own_server(settings=None, tcp=…)``."""
    bin_dir = server.bin_dir
    if bin_dir is None:
        pytest.skip("needs the programs of PostgreSQL: --pg=embedded, --pg=system or --pg-bin")
    started: list[PostgresInstance] = []

    def start(
        settings: Mapping[str, str | int] | None = None,
        *,
        tcp: bool = False,
        durable: bool = False,
    ) -> PostgresInstance:
        instance = PostgresInstance(bin_dir, settings=settings, tcp=tcp, durable=durable)
        started.append(instance)
        instance.start()
        return instance

    yield start
    for instance in started:
        instance.close()


@pytest.fixture
def proxy(dsn: str) -> Iterator[FaultProxy]:
    """A way to the test's database that can be cut, stalled and delayed."""
    with FaultProxy(dsn) as proxy:
        yield proxy


@pytest.fixture
def way(bus_dsn: str) -> Iterator[FaultProxy]:
    """The same to a database with pgbus installed."""
    with FaultProxy(bus_dsn) as way:
        yield way


@pytest.fixture(scope="session")
def shared_data(pytestconfig: pytest.Config) -> Path:
    """The folder of real event data beside the checkout, which is not part of the project."""
    folder = pytestconfig.rootpath.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"the real event data is not here: {folder}")
    return folder


@pytest.fixture(autouse=True)
def no_thread_stays_behind() -> Iterator[None]:
    """Fail a test that leaves a thread which would keep the process from ending."""
    before = set(threading.enumerate())
    yield
    new = [thread for thread in threading.enumerate() if thread not in before]
    left = [thread for thread in new if not thread.daemon]
    for thread in left:
        thread.join(THREADS_MAY_LINGER)
    alive = [thread.name for thread in left if thread.is_alive()]
    if alive:
        pytest.fail(f"the test left threads running: {', '.join(alive)}", pytrace=False)
