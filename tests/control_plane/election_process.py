"""A control plane that does nothing but lead and act: one line in a file for each act.

election_process.py redis|kubernetes URL IDENTITY FILE LEASE_S
"""

import asyncio
import sys
import time
from pathlib import Path

from kubernetes import client
from redis.asyncio import Redis

from control_plane.kube_lease import KubeLeadership
from control_plane.leadership import Leadership, NotLeader
from control_plane.state.redis_lease import RedisLeadership
from runtime.clock import SystemClock


def leadership_of(backend: str, url: str, identity: str, lease_s: float) -> Leadership:
    if backend == "redis":
        return RedisLeadership(Redis.from_url(url), "test", identity, SystemClock(), lease_s)
    configuration = client.Configuration(host=url)
    configuration.retries = False
    api = client.ApiClient(configuration)
    clock = SystemClock()
    return KubeLeadership(api, "serving", "baton", identity, clock, time.time, lease_s)


async def main(backend: str, url: str, identity: str, file: str, lease_s: str) -> None:
    leadership = leadership_of(backend, url, identity, float(lease_s))
    await leadership.start()
    with Path(file).open("a", buffering=1) as acts:
        while True:
            try:
                if leadership.term().is_me:
                    acts.write(f"{identity} {await leadership.confirm()}\n")
            except NotLeader:
                acts.write(f"{identity} refused\n")
            await asyncio.sleep(0.01)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
