"""The sockets that `llm-api` listens on, and what is checked before it does."""

import errno
import socket
import ssl
from ipaddress import ip_address

import psutil  # type: ignore[import-untyped]

from llm_scheduler.api.access.api_keys import KeyRing
from llm_scheduler.jobs.clock import SystemClock
from llm_scheduler.jobs.config import Config
from llm_scheduler.jobs.config.model import Api
from llm_scheduler.jobs.exit_codes import ExitCode


class ServerStartError(Exception):
    """The server can't run with this configuration. The text says why; `status` is the exit status."""

    def __init__(self, status: ExitCode, text: str) -> None:
        super().__init__(text)
        self.status = status


def url(api: Api) -> str:
    return f"{'https' if api.ssl_enabled else 'http'}://{_address(api)}"


def listen(config: Config) -> list[socket.socket]:
    """Sockets that listen on every address of api.host. Raises `ServerStartError`, also for missing keys."""
    api, security = config.api, config.security
    needs_keys = security.api_key_enabled or security.jwt_enabled
    if needs_keys and not KeyRing(security, SystemClock()):
        text = "The API asks for keys, and there are none. Make one: llmctl key create NAME --role admin"
        raise ServerStartError(ExitCode.CONFIGURATION, text)
    _check_certificate(api)
    try:
        addresses = socket.getaddrinfo(api.host, api.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        text = f"The host {api.host!r} is not known ({error.strerror}). Change api.host."
        raise ServerStartError(ExitCode.UNREACHABLE, text) from None
    if not (needs_keys or all(ip_address(str(each[4][0]).split("%")[0]).is_loopback for each in addresses)):
        raise ServerStartError(
            ExitCode.CONFIGURATION,
            f"api.host {api.host!r} can be reached from other machines, and there are no API keys. "
            "Set security.api_key_enabled and make a key (llmctl key create), or api.host to 127.0.0.1.",
        )
    listeners: list[socket.socket] = []
    failure: OSError | None = None
    for family, kind, protocol, _, address in dict.fromkeys(addresses):
        try:
            listeners.append(_listener(family, kind, protocol, address))
        except OSError as error:
            failure = error
            if error.errno == errno.EADDRINUSE:
                break
    # An address of a family that this machine lacks is skipped if another one works; a port in use is an error.
    if failure is not None and (not listeners or failure.errno == errno.EADDRINUSE):
        for listener in listeners:
            listener.close()
        raise ServerStartError(ExitCode.UNREACHABLE, _reason(api, failure))
    return listeners


def _listener(family: int, kind: int, protocol: int, address: object) -> socket.socket:
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)  # type: ignore[arg-type]
        listener.listen(2048)  # only now does Linux report another socket that is bound but does not listen yet
        listener.set_inheritable(True)
    except OSError:
        listener.close()
        raise
    return listener


def _check_certificate(api: Api) -> None:
    """Checked once before the processes start: otherwise each would log a traceback or ask for a password."""
    if not api.ssl_enabled:
        return
    assert api.ssl_cert_file
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(api.ssl_cert_file, api.ssl_key_file, password="")
    except OSError as error:  # ssl.SSLError is one
        reason = error.strerror or str(error)
        text = f"The certificate can't be used ({reason}). Check api.ssl_cert_file and api.ssl_key_file."
        raise ServerStartError(ExitCode.CONFIGURATION, text) from None


def _reason(api: Api, error: OSError) -> str:
    address = _address(api)
    match error.errno:
        case errno.EADDRINUSE:
            return f"{address} is in use{_user_of_port(api.port)}. Stop that, or set api.port to another port."
        case errno.EACCES:
            return f"This user may not listen on {address}. Set api.port to 1024 or higher."
        case errno.EADDRNOTAVAIL:
            return f"{address} can't be used: this machine has no such address. Change api.host."
    return f"{address} can't be used ({error.strerror or error}). Change api.host or api.port."


def _user_of_port(port: int) -> str:
    """` by process 123 (name)`, if the system lets this user see it."""
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
                return f" by process {connection.pid} ({psutil.Process(connection.pid).name()})"
    except (psutil.Error, OSError):
        pass
    return ""


def _address(api: Api) -> str:
    return f"[{api.host}]:{api.port}" if ":" in api.host else f"{api.host}:{api.port}"
