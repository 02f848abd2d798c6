"""ROS domains that tests which run at the same time do not share."""

from __future__ import annotations

import itertools
import os

DOMAINS = 101  # 0 to 100: their ports lie below those that Linux gives away by itself
_taken = itertools.count()


def next_domain() -> str:
    """The next ROS_DOMAIN_ID of this process: another one than those of pytest-xdist's other workers."""
    workers = min(int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")), DOMAINS)
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % workers
    turn = (os.getpid() // workers + next(_taken)) % (DOMAINS // workers)
    return str(worker + workers * turn)
