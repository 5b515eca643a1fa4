"""Jinja filters of the playbooks, for what would be hard to read as a template."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import quote, urlencode


def worker_units(workers: Mapping[str, int]) -> list[str]:
    """The worker units for a number of workers for each queue: `{"high": 2}` gives `llm-worker@high` and `@high.2`."""
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
    """The value of `queue.redis_url`: the sentinels if there are any, else the first server. A `ca_file` means TLS.

    Servers and sentinels are texts `address:port`.
    """
    hosts = ",".join(sentinels)
    scheme = ("rediss" if ca_file else "redis") + ("+sentinel" if hosts else "")
    place = f"{hosts}/{service}/0" if hosts else f"{next(iter(servers))}/0"
    options = {}
    if hosts and sentinel_password:
        options["sentinel_password"] = sentinel_password
    if ca_file:
        options["ssl_ca_certs"] = ca_file
    query = f"?{urlencode(options)}" if options else ""
    return f"{scheme}://llm:{quote(password, safe='')}@{place}{query}"


def credential_file(secret: Mapping[str, str], folder: str) -> dict[str, str]:
    """A credential as a file for the module `llm_files`; `secret` is an item of `dict2items`."""
    return {"path": f"{folder}/credentials/{secret['key']}", "secret": secret["value"], "mode": "0600"}


class FilterModule:
    """Ansible loads the filters from here."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "llm_credential_file": credential_file,
            "llm_redis_url": redis_url,
            "llm_worker_units": worker_units,
        }
