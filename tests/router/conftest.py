"""Starts scripted clusters for the router's tests and checks that each ends clean."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))

import scripted_cluster


@pytest.fixture
async def start_cluster():
    """`await start_cluster(num_prefill, num_decode, **settings)`; stopped after the test."""
    clusters = []

    async def start(num_prefill=1, num_decode=1, **settings):
        cluster = scripted_cluster.Cluster(**settings)
        clusters.append(cluster)
        await cluster.start(num_prefill, num_decode)
        return cluster

    yield start
    for cluster in clusters:
        await cluster.stop()
