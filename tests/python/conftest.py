import signal

import pytest

from support import Daemon

# Under nohup the daemons that tests start would take no SIGHUP either, which is how files are read again.
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Samples and goldens are float32 values; other settings answer the same questions with other bits.
EXACT = ("--weights", "f32", "--kv", "f32")


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="hostile clients for a minute a test, not for seconds")


@pytest.fixture(scope="session")
def dense():
    """tiny-dense on two ranks: tensor parallelism. Shared by tests that leave it as it was."""
    with Daemon("tiny-dense", options=EXACT) as daemon:
        yield daemon


@pytest.fixture(scope="session")
def moe():
    """tiny-moe on two ranks: expert parallelism."""
    with Daemon("tiny-moe", options=EXACT) as daemon:
        yield daemon


@pytest.fixture(scope="session", params=["tiny-dense", "tiny-moe"])
def either(request):
    """(name of the model, its daemon), once for each of the two."""
    return request.param, request.getfixturevalue({"tiny-dense": "dense", "tiny-moe": "moe"}[request.param])


@pytest.fixture
def own_dense():
    """A daemon that the test may break."""
    with Daemon("tiny-dense") as daemon:
        yield daemon
