"""Failed attempts to get in: counted by where they come from, and slowed down beyond a number of them.

Who shows a right key is never slowed down: a key has 256 random bits, so there is nothing to be won by guessing, and
whoever shares an address with somebody who tries must not be locked out by them. That is not so of a key in the
configuration that may be short, which waits with the others. For those the count is there, and to keep the log
readable.
"""

import ipaddress
import math
import time

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter

ATTEMPTS = 10  # a minute, from one address
_RECORDS = 60  # a minute, from all addresses: 100,000 of them take more than a day


class Failures:
    """The failed attempts of the last minute, as this process saw them."""

    def __init__(self) -> None:
        self._limiter = FixedWindowRateLimiter(MemoryStorage())
        self._attempts = RateLimitItemPerMinute(ATTEMPTS, namespace="attempts")
        # One more than there are attempts, so that the first that was turned away stands in the record, too.
        self._records = RateLimitItemPerMinute(ATTEMPTS + 1, namespace="records")
        self._all_records = RateLimitItemPerMinute(_RECORDS, namespace="records")

    def add(self, address: str) -> bool:
        """Count an attempt that failed. False: there were too many before it."""
        return self._limiter.hit(self._attempts, _network(address))

    def waits(self, address: str) -> int:
        """For how many seconds attempts from `address` are turned away; 0: they aren't."""
        if self._limiter.test(self._attempts, _network(address)):
            return 0
        reset_at = self._limiter.get_window_stats(self._attempts, _network(address)).reset_time
        return max(1, math.ceil(reset_at - time.time()))

    def may_record(self, address: str) -> bool:
        """Whether one more refusal is to be recorded: nobody may fill the record, and so empty it of the rest."""
        return self._limiter.hit(self._records, _network(address)) and self._limiter.hit(self._all_records)


def _network(address: str) -> str:
    """Who counts as one: an IPv4 address; of IPv6 a /64, which is what one household is given."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address[:64]
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((found, 64), strict=False))
    return str(found)
