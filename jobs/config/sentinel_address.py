"""The address of Redis behind Sentinel: `redis+sentinel://[user:password@]host[:port][,host[:port]...]/service[/db][?...]`.

redis-py has no URL for this; several projects use this form. User and password are for the server.
`sentinel_username` and `sentinel_password` in the query are for the sentinels; all other options are redis-py's.
"""

from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlencode

SCHEMES = {"redis+sentinel": "redis", "rediss+sentinel": "rediss"}
SENTINEL_PORT = 26379
FORM = "redis+sentinel://[user:password@]host[:port][,host[:port]...]/service[/db]"
_OWN_OPTIONS = ("sentinel_username", "sentinel_password")


@dataclass(frozen=True)
class SentinelAddress:
    """`username` and `password` are for the sentinels. `server` is a URL for redis-py; its host is a placeholder, since
    the sentinels name the real one.
    """

    sentinels: tuple[tuple[str, int], ...]
    service: str
    server: str = field(repr=False)
    secure: bool = False
    username: str | None = None
    password: str | None = field(default=None, repr=False)


def sentinel_address(url: str) -> SentinelAddress | None:
    """The sentinels in `url`; None for the address of a server. Raises ValueError; its message shows no secret."""
    scheme, _, rest = url.partition("://")
    plain = SCHEMES.get(scheme)
    if plain is None:
        return None
    if "#" in rest:
        raise ValueError("without '#' (in a password it is written %23)")
    rest, _, query = rest.partition("?")
    place, _, path = rest.partition("/")
    user, at, hosts = place.rpartition("@")
    service, _, database = path.partition("/")
    if not service:
        raise ValueError(f"with the name of the service that the sentinels watch: {FORM}")
    options = parse_qsl(query, keep_blank_values=True)
    own = {name: value for name, value in options if name.startswith("sentinel_")}
    if strange := sorted(set(own) - set(_OWN_OPTIONS)):
        raise ValueError(f"with {' and '.join(_OWN_OPTIONS)} as the sentinels' options, not {', '.join(strange)}")
    for number in (database, *(value for name, value in options if name == "db")):
        if number and not (number.isascii() and number.isdigit()):
            raise ValueError(f"with a number as the database, after the service: {FORM}")
    others = urlencode([(name, value) for name, value in options if name not in own])
    return SentinelAddress(
        sentinels=tuple(_host_and_port(each) for each in hosts.split(",")),
        service=unquote(service),
        server=f"{plain}://{user}{at}sentinel/{database}?{others}",
        secure=plain == "rediss",
        username=own.get("sentinel_username") or None,
        password=own.get("sentinel_password") or None,
    )


def _host_and_port(text: str) -> tuple[str, int]:
    """`host`, `host:port`, `[IPv6]` or `[IPv6]:port`."""
    host, colon, port = text.rpartition(":")
    if not colon or port.endswith("]"):
        host, port = text, str(SENTINEL_PORT)
    bare = host.removeprefix("[").removesuffix("]")
    usable = bare and (":" not in bare or host == f"[{bare}]")
    if not usable or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f"with a host and a port for each sentinel: {FORM}")
    return unquote(bare), int(port)
