"""The autoscaler in the loop of `llmctl up`."""

import logging
import time

from llm_scheduler.api.local.crew import LocalCrew
from llm_scheduler.api.scaling.actuators import CrewError
from llm_scheduler.api.scaling.autoscaler import Autoscaler
from llm_scheduler.api.scaling.observation import SystemProbe
from llm_scheduler.jobs.clock import SystemClock
from llm_scheduler.jobs.config import Config
from llm_scheduler.jobs.process.connection import AWAY, connect

ANSWER_SECONDS = 0.5  # for Redis to answer: the children are not watched meanwhile
PAUSE_SECONDS = 30.0  # after a step without an answer from Redis


class PeriodicAutoscaler:
    """Runs a step of the autoscaler every `processing.autoscale.look_every` seconds."""

    def __init__(self, config: Config, url: str, crew: LocalCrew, log: logging.Logger) -> None:
        self._every = config.processing.autoscale.look_every
        self._log = log
        self._redis = connect(url, ANSWER_SECONDS)
        self._redis.connection_pool.connection_kwargs["socket_connect_timeout"] = ANSWER_SECONDS
        self._autoscaler = Autoscaler(config, self._redis, crew, SystemProbe(), SystemClock(), log)
        self._due = time.monotonic() + self._every

    def due_in(self) -> float:
        """Seconds until the next step."""
        return max(0.0, self._due - time.monotonic())

    def step_if_due(self) -> None:
        """Run a step if it is due. Never raises: the workers stay as they are."""
        if time.monotonic() < self._due:
            return
        pause = self._every
        try:
            if not self._autoscaler.is_at_rest():
                self._autoscaler.step()
        except AWAY:
            pause = max(pause, PAUSE_SECONDS)  # the daemons log that Redis is unreachable
        except CrewError as error:
            self._log.error("%s", error)
        except Exception:
            self._log.exception("The autoscaler failed; the workers stay as they are")
        self._due = time.monotonic() + pause

    def close(self) -> None:
        self._redis.close()
