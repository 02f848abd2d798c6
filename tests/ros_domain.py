"""ROS domains that tests which run at the same time do not share."""

import itertools
import os

FIRST, DOMAINS = 1, 89  # not 0, where a robot's own nodes are, nor those of benchmarks.running_node
_taken = itertools.count()


def next_domain() -> str:
    """The next ROS_DOMAIN_ID of this process: another one than those of pytest-xdist's other workers."""
    workers = min(int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")), DOMAINS)
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % workers
    turn = (os.getpid() // workers + next(_taken)) % (DOMAINS // workers)
    return str(FIRST + worker + workers * turn)
