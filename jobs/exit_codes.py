"""The exit codes of all programs. Those from 64 to 78 are those of sysexits.h."""

from enum import IntEnum


class ExitCode(IntEnum):
    OK = 0
    NOT_WELL = 1
    USAGE = 2
    UNREACHABLE = 69  # EX_UNAVAILABLE: llmctl cannot reach Redis, or llm-api cannot listen on its address
    RESTART = 75  # EX_TEMPFAIL: a worker ended because of a restart command; its supervisor ends too
    CONFIGURATION = 78  # EX_CONFIG: the systemd units do not restart on it
    OUT_OF_MEMORY = 83  # a worker's handler ran out of memory
