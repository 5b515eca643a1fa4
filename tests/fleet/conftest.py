"""One fleet for all tests of a run: making it is the first of them."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import inventory
import pytest
from fleet import Fleet
from hosts import SUITE, Hosts, NoSystem, why_not


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Hosts that have just been installed; with `$LLM_TEST_FLEET`, a folder, those of a former run go on.

    `$LLM_TEST_SUITE` is the release that they have, as `trixie` or `noble,worker2=jammy`; `$LLM_TEST_VARIABLES` what
    their inventory has besides, in JSON, as `{"llm_redis_tls": true}`.
    """
    refusal = why_not()
    if refusal:
        pytest.skip(refusal)
    hosts = Hosts(os.environ.get("LLM_TEST_SUITE", SUITE))
    kept = os.environ.get("LLM_TEST_FLEET")
    try:
        if not (kept and hosts.named):
            hosts.up((*inventory.NAMES, inventory.ALONE))
    except NoSystem as error:
        pytest.skip(str(error))
    try:
        variables = json.loads(os.environ.get("LLM_TEST_VARIABLES", "{}"))
        yield Fleet(hosts, Path(kept or tmp_path_factory.mktemp("fleet")), **variables)
    finally:
        if not kept:
            hosts.down()


@pytest.fixture(scope="session")
def fleet(bare: Fleet) -> Fleet:
    """Hosts that the scheduler is deployed to."""
    bare.deployed = bare.play("deploy").ok()
    return bare
