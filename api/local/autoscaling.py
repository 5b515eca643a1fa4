"""The autoscaler in the supervisor's loop."""

import logging
import time

from llm_scheduler.api.local.crew import LocalCrew
from llm_scheduler.api.scaling.actuators import CrewError
from llm_scheduler.api.scaling.autoscaler import Autoscaler
from llm_scheduler.api.scaling.observation import SystemVitals
from llm_scheduler.jobs.clock import SystemClock
from llm_scheduler.jobs.config import Config
from llm_scheduler.jobs.process.connection import AWAY, connect

PATIENCE_SECONDS = 0.5  # how long a look may wait for Redis: the children are not watched meanwhile
PAUSE_SECONDS = 30.0  # until the next look when Redis did not answer


class Scaling:
    """A look when it is due, and none for a while when Redis does not answer: then nothing is decided."""

    def __init__(self, config: Config, url: str, crew: LocalCrew, log: logging.Logger) -> None:
        self._every = config.processing.autoscale.look_every
        self._log = log
        self._redis = connect(url, PATIENCE_SECONDS)
        self._redis.connection_pool.connection_kwargs["socket_connect_timeout"] = PATIENCE_SECONDS
        self._autoscaler = Autoscaler(config, self._redis, crew, SystemVitals(), SystemClock(), log)
        self._due = time.monotonic() + self._every

    def due_in(self) -> float:
        """Seconds until the next look."""
        return max(0.0, self._due - time.monotonic())

    def look_if_due(self) -> None:
        """Look, decide and act, if it is time to. Never raises: what runs goes on."""
        if time.monotonic() < self._due:
            return
        pause = self._every
        try:
            if not self._autoscaler.rests():
                self._autoscaler.step()
        except AWAY:
            pause = max(pause, PAUSE_SECONDS)  # that it is away, the daemons say
        except CrewError as error:
            self._log.error("%s", error)
        except Exception:
            self._log.exception("A look at the queues went wrong; the workers stay as they are")
        self._due = time.monotonic() + pause

    def close(self) -> None:
        self._redis.close()
