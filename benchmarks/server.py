"""A private server for each run, with the same settings for all: append-only file synced every second, unix socket."""

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from llm_scheduler.api.local.embedded_server import program
from llm_scheduler.jobs.process.connection import connect


class Server:
    """A server with its data in `folder`, on the file system of the spool."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._short = Path(tempfile.mkdtemp(prefix="llm-bench-"))  # the path of a socket has at most 107 bytes
        self.url = f"unix://{self._short}/s?db=0"
        self.process = subprocess.Popen(
            [
                program(),
                *("--port", "0", "--unixsocket", f"{self._short}/s", "--dir", str(folder), "--save", ""),
                *("--appendonly", "yes", "--appendfsync", "everysec", "--loglevel", "warning"),
            ],
            stdout=subprocess.DEVNULL,
        )
        self.client = connect(self.url)
        try:
            wait_until(self._answers, "an answer from the server", 10)
        except BaseException:
            self.stop()
            raise

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except RedisError:
            return False

    def stop(self) -> None:
        self.client.close()
        self.process.kill()  # its data is no longer needed
        self.process.wait()
        shutil.rmtree(self._short, ignore_errors=True)


def version() -> str:
    """Name and version of the server program, for example "Valkey 9.1.0"."""
    words = subprocess.run([program(), "--version"], capture_output=True, text=True, check=True).stdout.split()
    number = next((word.removeprefix("v=") for word in words if word.startswith("v=")), "?")
    return f"{words[0]} {number}"


def used_memory(client: Redis) -> int:
    """Bytes that the server uses, after it has freed what it can."""
    client.execute_command("MEMORY", "PURGE")
    return int(client.info("memory")["used_memory"])


def wait_until(condition: Callable[[], object], what: str, seconds: float, every: float = 0.05) -> None:
    """Wait until `condition()` is true. Raises TimeoutError with `what` was expected."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds:g} s: {what}")
        time.sleep(every)


def free_port() -> int:
    """A TCP port that nothing listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])
