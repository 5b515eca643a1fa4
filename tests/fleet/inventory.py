"""The inventory of the test fleet."""

import json
from pathlib import Path
from typing import Any

from hosts import SSH_OPTIONS, Hosts

NAMES = ("ingest1", "redis1", "redis2", "worker1", "worker2", "mon1")
ALONE = "solo"  # for inventories/single-host; not part of the fleet
GROUPS = {
    "llm_ingest": ["ingest1"],
    "llm_api": ["ingest1"],
    "llm_balancer": ["ingest1"],
    "llm_workers": ["worker1", "worker2"],
    "llm_redis": ["redis1", "redis2"],
    "llm_sentinel": ["redis1", "redis2", "ingest1"],
    "llm_monitoring": ["mon1"],
}


def write(hosts: Hosts, folder: Path, **variables: Any) -> Path:
    """Write the inventory into `folder`, which also gets the secrets. Returns the path of the inventory."""
    place = folder / "inventory"
    place.mkdir(parents=True, exist_ok=True)
    content = {
        "all": {
            "vars": {
                "ansible_user": "root",
                "ansible_ssh_private_key_file": str(hosts.key),
                "ansible_ssh_common_args": SSH_OPTIONS,
                "llm_address": "{{ ansible_host }}",
                "llm_secrets_dir": str(folder / "secrets"),
                "llm_redis_maxmemory": "256mb",
                "llm_workers": {"high": 1, "medium": 1, "low": 1},
                "llm_config": {"api": {"workers": 1}},
                **variables,
            },
            "hosts": {each.name: {"ansible_host": each.address} for each in hosts.named.values() if each.name in NAMES},
            "children": {
                group: {"hosts": {name: {} for name in names if name in hosts.named}} for group, names in GROUPS.items()
            },
        }
    }
    (place / "hosts.json").write_text(json.dumps(content, indent=2))
    return place / "hosts.json"
