"""What is simulated: pools, hardware, policy and the times of everything around the engines."""

from dataclasses import dataclass

from loadtest.faults import Fault
from profiles.profile import Profile
from simulate.errors import SimulationError
from simulate.fault_rates import RandomFaults
from simulate.links import LinkClass
from simulate.pool_costs import PoolCosts
from simulate.slo_class import SloClass
from wire.block_hash import BLOCK_SIZE
from wire.cluster import Mode
from wire.messages import Role


@dataclass(frozen=True, slots=True)
class Overheads:
    """Time outside of engines and KV links, as measured on two cores of a quiet machine.

    request_s, prompt_token_s: in the gateway, from a request's arrival to its placement, and on
    the way to the worker's queue. hop_s: one message between gateway and worker. reply_s: in the
    gateway, from a worker's frame to the client. pull_s: opening and closing a KV transfer.
    coalesce_s: the gateway's setting coalesce_ms; 0: each token goes out by itself.
    docs/simulation.md says how they were found.
    """

    request_s: float = 0.0015
    prompt_token_s: float = 0.3e-6
    hop_s: float = 0.0008
    reply_s: float = 0.0008
    pull_s: float = 0.0
    coalesce_s: float = 0.005


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """Equal workers of one role in one zone."""

    role: Role
    count: int
    profile: Profile
    zone: str = ""


@dataclass(frozen=True, slots=True)
class ClusterSpec:
    """Two pools and how they are used. policy: as router.policies.named takes it.

    local_prefill_max_tokens: as in RouterConfig. ttft_slo_ms, tpot_slo_ms: what policies that
    predict aim at; 0 asks for the router's defaults. prefill_batch_tokens, decode_batch_tokens,
    max_num_seqs: 0 asks for the profile's. unit_tokens: what one cached unit holds, a multiple of
    16; larger units make the simulation faster and the caches coarser. max_under_way, max_queued,
    reject_ratio, hedge: as in RouterConfig. learns: the router's predictors learn from reports, as
    they do live; without that a large simulation is faster, and only the number under way limits
    admission. router_profile: the router's predictors begin with that profile; empty: with nothing.
    recording: as in RouterConfig; it needs units of 16 tokens, as live workers have them. mode:
    that gateways are told at the beginning.
    Raises SimulationError for numbers that make no cluster.
    """

    num_prefill: int
    num_decode: int
    prefill_profile: Profile
    decode_profile: Profile
    policy: str = "uncached_tokens"
    local_prefill_max_tokens: int = 16
    prefill_batch_tokens: int = 0
    decode_batch_tokens: int = 0
    max_num_seqs: int = 0
    unit_tokens: int = 512
    overheads: Overheads = Overheads()
    seed: int = 0
    ttft_slo_ms: float = 0.0
    tpot_slo_ms: float = 0.0
    pool_costs: PoolCosts = PoolCosts()
    links: tuple[LinkClass, ...] = ()
    max_under_way: int = 8192
    max_queued: int = 1024
    reject_ratio: float = -1.0
    hedge: float = 0.0
    learns: bool = True
    router_profile: str = ""
    pools: tuple[PoolSpec, ...] = ()
    classes: tuple[SloClass, ...] = ()
    faults: tuple[Fault, ...] = ()
    random_faults: RandomFaults = RandomFaults()
    recording: str = ""
    mode: Mode = Mode.HYBRID

    def __post_init__(self) -> None:
        if self.unit_tokens < 1 or self.unit_tokens % BLOCK_SIZE:
            raise SimulationError(f"units of {self.unit_tokens} tokens: a multiple of 16 is needed")
        if self.recording and self.unit_tokens != BLOCK_SIZE:
            raise SimulationError(
                f"a recording needs units of {BLOCK_SIZE} tokens: --unit-tokens 16"
            )
        if self.num_prefill < 0 or self.num_decode < 0 or self.num_prefill + self.num_decode == 0:
            raise SimulationError(f"{self.split} is no cluster: at least one worker is needed")

    @property
    def max_tokens(self) -> int:
        """Prompt and answer that fit both pools' workers."""
        profiles = [pool.profile for pool in self.founded if pool.count]
        return min(min(p.max_model_len, p.kv_tokens // BLOCK_SIZE * BLOCK_SIZE) for p in profiles)

    @property
    def founded(self) -> tuple[PoolSpec, ...]:
        """The workers that are there at the beginning."""
        return self.pools or (
            PoolSpec(Role.PREFILL, self.num_prefill, self.prefill_profile),
            PoolSpec(Role.DECODE, self.num_decode, self.decode_profile),
        )

    @property
    def num_workers(self) -> int:
        return self.num_prefill + self.num_decode

    @property
    def num_gpus(self) -> int:
        return sum(pool.count * pool.profile.num_gpus for pool in self.founded)

    @property
    def usd_per_hour(self) -> float:
        return sum(pool.count * pool.profile.usd_per_hour for pool in self.founded)

    @property
    def split(self) -> str:
        return f"{self.num_prefill}:{self.num_decode}"
