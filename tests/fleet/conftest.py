"""One fleet for all tests of a run: making it is the first of them."""

from collections.abc import Iterator
from pathlib import Path

import inventory
import pytest
from fleet import Fleet
from hosts import Hosts, why_not


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Hosts that have just been installed."""
    refusal = why_not()
    if refusal:
        pytest.skip(refusal)
    hosts = Hosts()
    hosts.up(inventory.NAMES)
    try:
        yield Fleet(hosts, Path(tmp_path_factory.mktemp("fleet")))
    finally:
        hosts.down()


@pytest.fixture(scope="session")
def fleet(bare: Fleet) -> Fleet:
    """Hosts that the scheduler is deployed to."""
    bare.deployed = bare.play("deploy").ok()
    return bare
