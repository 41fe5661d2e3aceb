import pytest

from support import Daemon


@pytest.fixture(scope="session")
def dense():
    """tiny-dense on two ranks: tensor parallelism. Shared by tests that leave it as it was."""
    with Daemon("tiny-dense") as daemon:
        yield daemon


@pytest.fixture(scope="session")
def moe():
    """tiny-moe on two ranks: expert parallelism."""
    with Daemon("tiny-moe") as daemon:
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
