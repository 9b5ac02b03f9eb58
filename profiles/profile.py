"""What one worker of some model on some hardware takes and holds, in a dozen numbers."""

from dataclasses import dataclass

from profiles.scatter import NO_SCATTER, Scatter


@dataclass(frozen=True, slots=True)
class Profile:
    """Times of engine steps as linear costs, sizes of memory and link, and where they come from.

    A step with B decoding sequences that hold K tokens, and prefill chunks of c tokens behind p
    computed ones, takes

        step_s + sequence_s * B + context_token_s * K
        + prefill_step_s, where there are chunks,
        + sum over chunks of prefill_token_s * c + prefill_pair_s * ((p + c)^2 - p^2).

    link_bytes_per_s, link_latency_s: of KV between two workers, one direction. host_bytes_per_s: of
    KV between the worker's devices and their host's memory, which holds host_kv_tokens of what the
    devices evict; 0: nothing. load_s: from a process's start until the weights are in memory.
    usd_per_hour: of all the worker's GPUs. scatter: of steps around these times, which are their
    means.
    """

    name: str
    source: str
    step_s: float
    sequence_s: float
    context_token_s: float
    prefill_token_s: float
    prefill_pair_s: float
    kv_tokens: int
    kv_bytes_per_token: int
    num_layers: int
    max_model_len: int
    link_bytes_per_s: float
    link_latency_s: float = 0.0005
    host_bytes_per_s: float = 0.0
    host_kv_tokens: int = 0
    load_s: float = 0.0
    prefill_step_s: float = 0.0
    prefill_batch_tokens: int = 8192
    decode_batch_tokens: int = 1024
    max_num_seqs: int = 256
    num_gpus: int = 1
    usd_per_hour: float = 0.0
    scatter: Scatter = NO_SCATTER

    @property
    def num_layer_groups(self) -> int:
        """Layers are announced and pulled in groups; a worker makes at most eight."""
        return min(8, self.num_layers)

    def decode_s(self, num_seqs: int, context_tokens: int) -> float:
        """A step's base and its decoding sequences, context_tokens in their KV altogether."""
        return self.step_s + self.sequence_s * num_seqs + self.context_token_s * context_tokens

    def chunk_s(self, start: int, end: int) -> float:
        """What the prompt tokens start .. end of one sequence add to a step."""
        squares = end * end - start * start
        return self.prefill_token_s * (end - start) + self.prefill_pair_s * squares

    def kv_transfer_s(self, num_tokens: int) -> float:
        """The time that the link needs for the KV of that many tokens."""
        return num_tokens * self.kv_bytes_per_token / self.link_bytes_per_s

    def host_copy_s(self, num_tokens: int) -> float:
        """The time in which the KV of that many tokens comes from the host, or goes there."""
        return num_tokens * self.kv_bytes_per_token / self.host_bytes_per_s
