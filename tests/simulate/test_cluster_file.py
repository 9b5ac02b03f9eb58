"""Clusters from TOML files: what they say is simulated, and what they get wrong is named."""

import pytest
from toy_cluster import make_spec, make_workload

from loadtest.slo import parse_slos
from simulate.cluster_file import read_cluster_file
from simulate.errors import SimulationError
from simulate.report import result_of
from simulate.run import simulate

GOOD = """
[[pool]]
role = "prefill"
profile = "llama-3.1-8b@h100"
count = 2
zone = "a"

[[pool]]
role = "decode"
profile = "llama-3.1-8b@h200"
count = 1
kv_tokens = 100000
zone = "a"
usd_per_gpu_hour = 2.5

[[pool]]
role = "decode"
profile = "llama-3.1-8b@l40s"
tp = 2
count = 1
zone = "b"

[[link]]
zones = ["a", "b"]
gbit_per_s = 10
latency_ms = 2

[[slo]]
name = "chat"
share = 0.5
ttft_ms = 500
tpot_ms = 20

[[slo]]
name = "batch"
share = 0.5
ttft_ms = 60000
tpot_ms = 200
priority = 2
"""


def write(tmp_path, text):
    path = tmp_path / "cluster.toml"
    path.write_text(text)
    return path


def test_pools_links_prices_and_classes_are_those_of_the_file(tmp_path):
    file = read_cluster_file(write(tmp_path, GOOD))
    spec = file.applied_to(make_spec("1:1"))
    assert (spec.split, spec.num_gpus) == ("2:2", 5)
    assert spec.usd_per_hour == pytest.approx(2 * 3.0 + 2.5 + 2 * 1.0)
    workload = make_workload([(0.1 * i, 2000, 20) for i in range(100)])
    outcome = simulate(spec, workload)
    result = result_of(spec, workload, outcome, parse_slos(file.slos))
    assert set(result.by_class) == {"chat", "batch"}
    assert 40 <= result.by_class["chat"].num_requests <= 60
    assert result.by_class["batch"].goodput > 0
    far = [r.stages.transfer_s for r in outcome.records if r.stages.decode_worker == "decode-1"]
    near = [r.stages.transfer_s for r in outcome.records if r.stages.decode_worker == "decode-0"]
    assert min(far) > 3 * min(near)


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("count = 2", "count = -1", "pool 1: count -1"),
        ("count = 2", "cuont = 2", "cuont"),
        ('role = "prefill"', 'role = "both"', "both"),
        ("llama-3.1-8b@h100", "llama-9@h100", "pool 1: 'llama-9@h100' is no profile"),
        ("kv_tokens = 100000", "kv_tokens = 7", "pool 2: kv_tokens 7 is not within 16"),
        (
            "kv_tokens = 100000",
            'host_kv_memory = "much"',
            "pool 2: host_kv_memory: 'much'",
        ),
        ("kv_tokens = 100000", 'host_kv_memory = "9"', "9 bytes of host memory, a token's KV has"),
        ('zones = ["a", "b"]', 'zones = ["a", "c"]', "link 1: no pool is in zone c"),
        ("gbit_per_s = 10", "gbit_per_s = 0", "link 1: 0"),
        ("share = 0.5", "share = 0.9", "add up to 1.4"),
        ("ttft_ms = 500", "ttft_ms = 0", "slo 'chat': ttft_ms"),
        ('name = "batch"', 'name = "chat"', "a name of its own"),
        ("[[slo]]", "[[slo", "cannot read"),
    ],
)
def test_what_a_file_gets_wrong_is_named(tmp_path, old, new, complaint):
    with pytest.raises(SimulationError, match=complaint.replace("[", r"\[")):
        read_cluster_file(write(tmp_path, GOOD.replace(old, new, 1)))
