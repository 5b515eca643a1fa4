"""Failed attempts to authenticate: counted by address, and limited.

A right key is never slowed down: keys have 256 random bits and can't be guessed, and nobody is locked out by the
attempts of others behind the same address. The exception is a configured key that may be short: it waits like a wrong
one. Apart from that, the limit keeps the log readable.
"""

import ipaddress
import math
import time

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter

ATTEMPTS = 10  # a minute, from one address
_RECORDS = 60  # a minute, from all addresses: 100,000 of them take more than a day


class FailedAttempts:
    """The failed attempts of the last minute, as this process saw them."""

    def __init__(self) -> None:
        self._limiter = FixedWindowRateLimiter(MemoryStorage())
        self._attempts = RateLimitItemPerMinute(ATTEMPTS, namespace="attempts")
        # One more than there are attempts, so that the first attempt above the limit is recorded too.
        self._records = RateLimitItemPerMinute(ATTEMPTS + 1, namespace="records")
        self._all_records = RateLimitItemPerMinute(_RECORDS, namespace="records")

    def add(self, address: str) -> bool:
        """Count a failed attempt. False: the address is above its limit."""
        return self._limiter.hit(self._attempts, _network(address))

    def blocked_seconds(self, address: str) -> int:
        """For how many more seconds attempts from `address` are refused; 0: they are not."""
        if self._limiter.test(self._attempts, _network(address)):
            return 0
        reset_at = self._limiter.get_window_stats(self._attempts, _network(address)).reset_time
        return max(1, math.ceil(reset_at - time.time()))

    def may_record(self, address: str) -> bool:
        """Whether to record one more refused call: nobody may push the other calls out of the audit log."""
        return self._limiter.hit(self._records, _network(address)) and self._limiter.hit(self._all_records)


def _network(address: str) -> str:
    """Which addresses count as one: an IPv4 address, or an IPv6 /64, which is what one household gets."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address[:64]
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((found, 64), strict=False))
    return str(found)
