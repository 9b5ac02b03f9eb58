"""Small hardware whose times are round numbers, and workloads written by hand."""

from collections.abc import Sequence

from loadtest.plan import Conversation, Segment, Turn, Workload
from profiles.profile import Profile
from simulate.spec import ClusterSpec, Overheads

NO_TIME = Overheads(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def make_profile(**changes: object) -> Profile:
    values: dict[str, object] = {
        "name": "toy",
        "source": "tests",
        "step_s": 0.010,
        "sequence_s": 0.001,
        "context_token_s": 1e-6,
        "prefill_step_s": 0.002,
        "prefill_token_s": 1e-4,
        "prefill_pair_s": 1e-8,
        "kv_tokens": 1 << 20,
        "kv_bytes_per_token": 1000,
        "num_layers": 8,
        "max_model_len": 1 << 20,
        "link_bytes_per_s": 1e9,
        "link_latency_s": 0.0,
        "prefill_batch_tokens": 2048,
        "decode_batch_tokens": 256,
        "max_num_seqs": 64,
    }
    return Profile(**{**values, **changes})  # type: ignore[arg-type]


def make_spec(split: str = "1:1", **changes: object) -> ClusterSpec:
    prefill, decode = map(int, split.split(":"))
    profile = changes.pop("profile", None) or make_profile()
    values: dict[str, object] = {"unit_tokens": 16, "overheads": NO_TIME, **changes}
    return ClusterSpec(prefill, decode, profile, profile, **values)  # type: ignore[arg-type]


def make_workload(requests: Sequence[tuple[float, int, int]]) -> Workload:
    """(at_s, num_input, num_output) each; no two prompts share a token."""
    conversations = tuple(
        Conversation(index, at_s, (Turn(num_output, (Segment(1000 + index, num_input),)),))
        for index, (at_s, num_input, num_output) in enumerate(requests)
    )
    return Workload(conversations, requests[-1][0], "by hand")
