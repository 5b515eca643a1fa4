"""One fleet for all tests of a run."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import inventory
import pytest
from fleet import Fleet
from hosts import SUITE, BaseSystemError, Hosts, unsupported_reason


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Hosts with nothing but their operating system.

    Environment variables: `LLM_TEST_FLEET` is a folder; with it the hosts stay after the run, and the next run uses
    them again. `LLM_TEST_SUITE` names the operating system, for example `trixie` or `noble,worker2=jammy`.
    `LLM_TEST_VARIABLES` is JSON with further variables of the inventory, for example `{"llm_redis_tls": true}`.
    """
    reason = unsupported_reason()
    if reason:
        pytest.skip(reason)
    hosts = Hosts(os.environ.get("LLM_TEST_SUITE", SUITE))
    kept = os.environ.get("LLM_TEST_FLEET")
    try:
        if not (kept and hosts.named):
            hosts.up((*inventory.NAMES, inventory.ALONE))
    except BaseSystemError as error:
        pytest.skip(str(error))
    try:
        variables = json.loads(os.environ.get("LLM_TEST_VARIABLES", "{}"))
        yield Fleet(hosts, Path(kept or tmp_path_factory.mktemp("fleet")), **variables)
    finally:
        if not kept:
            hosts.down()


@pytest.fixture(scope="session")
def fleet(bare: Fleet) -> Fleet:
    """Hosts with the scheduler deployed."""
    bare.deployed = bare.play("deploy").ok()
    return bare
