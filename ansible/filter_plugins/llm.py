"""What the playbooks reckon with, where a template would be harder to read than a function."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import quote, urlencode


def worker_units(workers: Mapping[str, int]) -> list[str]:
    """The units of so many workers of each queue: `{"high": 2}` are `llm-worker@high` and `llm-worker@high.2`."""
    return [
        f"llm-worker@{queue}{'' if number == 1 else f'.{number}'}.service"
        for queue, count in workers.items()
        for number in range(1, int(count) + 1)
    ]


def redis_url(
    servers: Iterable[str],
    password: str,
    sentinels: Iterable[str] = (),
    service: str = "",
    sentinel_password: str = "",
    ca_file: str = "",
) -> str:
    """`queue.redis_url`: the sentinels' where there are any, else that of the one server; with TLS where there is a
    `ca_file`. Servers and sentinels are given as `address:port`."""
    watchers = ",".join(sentinels)
    scheme = ("rediss" if ca_file else "redis") + ("+sentinel" if watchers else "")
    place = f"{watchers}/{service}/0" if watchers else f"{next(iter(servers))}/0"
    options = {}
    if watchers and sentinel_password:
        options["sentinel_password"] = sentinel_password
    if ca_file:
        options["ssl_ca_certs"] = ca_file
    query = f"?{urlencode(options)}" if options else ""
    return f"{scheme}://llm:{quote(password, safe='')}@{place}{query}"


def credential_file(secret: Mapping[str, str], folder: str) -> dict[str, str]:
    """A credential as the module `llm_files` writes it; `secret` has its name as `key`."""
    return {"path": f"{folder}/credentials/{secret['key']}", "secret": secret["value"], "mode": "0600"}


class FilterModule:
    """Where Ansible finds the filters."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "llm_credential_file": credential_file,
            "llm_redis_url": redis_url,
            "llm_worker_units": worker_units,
        }
