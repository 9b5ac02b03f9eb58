"""One request inside the engine: its tokens, its blocks and where it stands."""

from array import array
from dataclasses import dataclass, field
from enum import Enum

from engine.cached_block import CachedBlock
from engine.grammar import Matcher
from engine.speculation.record import DraftRecord
from engine.token_history import TokenHistory
from wire.block_hash import BLOCK_SIZE, next_hash, root_hash
from wire.messages import SamplingParams


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """What the engine is asked for.

    block_hashes: of the prompt's full blocks, chained from the salt's root.
    output_tokens: generated elsewhere; known, and never emitted again.
    prefill_only: give one token, then hold the blocks until `release`.
    priority: lower numbers go first. keep_s: how long its blocks are kept once it has ended, if it
    gave a token here. came_s: when it came, on the engine's clock, before the step that it had to
    wait for; 0: as it is added.
    """

    seq_id: int
    prompt_tokens: tuple[int, ...]
    sampling: SamplingParams
    block_hashes: tuple[int, ...] = ()
    output_tokens: tuple[int, ...] = ()
    prefill_only: bool = False
    cache_salt: str = ""
    priority: int = 0
    keep_s: float = 0.0
    came_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Reservation:
    """Blocks for all known tokens of a request; the first num_cached_tokens are valid already."""

    seq_id: int
    block_ids: tuple[int, ...]
    num_cached_tokens: int


class SeqState(Enum):
    """Where a sequence stands; `Sequence` draws how it moves."""

    WAITING = "waiting"
    RESERVED = "reserved"
    RUNNING = "running"
    HELD = "held"
    FINISHED = "finished"


RUNNING = SeqState.RUNNING  # asked for every token: an enum's attribute costs three times a name


@dataclass(slots=True, eq=False)
class Sequence:
    """The engine's mutable record of a request; only the engine and its scheduler change it.

        add ------> WAITING --schedule--> RUNNING --last token---------> FINISHED
                    ^   ^                 |     |
                    |   +----preempted----+     +--prefill_only--> HELD --release--> FINISHED
        reserve --> RESERVED --activate--> WAITING, with its blocks
        cancel: from every state to FINISHED

    Tokens below `num_computed` have their keys and values in the blocks.
    """

    request: EngineRequest
    arrival: int
    block_size: int
    added_s: float
    tokens: "array[int]" = field(init=False)
    hashes: list[int] = field(init=False)  # of full blocks, as far as they were asked for
    state: SeqState = SeqState.WAITING
    block_ids: list[int] = field(default_factory=list)
    num_computed: int = 0
    prefill_end: int = 0  # a chunk that starts below it is prefill
    row: int = -1  # in the running batch's block tables
    tip: CachedBlock | None = None  # the cached block of the last stored one's content
    num_stored_blocks: int = 0
    host_slots: list[int] = field(default_factory=list)  # pinned; behind num_computed
    can_store: bool = True
    cached_estimate: int = 0  # tokens found in the prefix cache on arrival
    was_scheduled: bool = False
    scheduled_s: float = 0.0
    first_token_s: float = -1.0
    history: TokenHistory | None = None  # kept for penalties only
    matcher: Matcher | None = None  # where the answer follows a grammar; it has seen all outputs
    drafting: DraftRecord = field(default_factory=DraftRecord)

    def __post_init__(self) -> None:
        request = self.request
        self.tokens = array("I", request.prompt_tokens)
        self.tokens.extend(request.output_tokens)
        self.hashes = self._given_hashes()

    @property
    def seq_id(self) -> int:
        return self.request.seq_id

    @property
    def order(self) -> tuple[int, int]:
        """First come, first served within a priority."""
        return self.request.priority, self.arrival

    @property
    def num_tokens(self) -> int:
        return len(self.tokens)

    @property
    def num_prompt(self) -> int:
        return len(self.request.prompt_tokens)

    @property
    def num_outputs(self) -> int:
        return len(self.tokens) - len(self.request.prompt_tokens)

    @property
    def num_uncomputed(self) -> int:
        return len(self.tokens) - self.num_computed

    @property
    def num_missing_blocks(self) -> int:
        """Blocks that the known tokens need and the sequence does not hold."""
        return -(-len(self.tokens) // self.block_size) - len(self.block_ids)

    @property
    def is_prefilling(self) -> bool:
        return self.num_computed < self.prefill_end

    @property
    def can_be_preempted(self) -> bool:
        """The blocks of a prefill-only sequence are read by others from its first chunk on."""
        return not (self.request.prefill_only and self.was_scheduled)

    def append(self, token: int) -> None:
        """Adds a generated token."""
        self.tokens.append(token)
        if self.history is not None:
            self.history.append(token)
        if self.matcher is not None:
            self.matcher.consume((token,))

    def block_tokens(self, index: int) -> bytes:
        """The tokens of a full block, as the pool compares them."""
        return self.tokens[index * self.block_size : (index + 1) * self.block_size].tobytes()

    def block_hash(self, index: int) -> int:
        """The chained hash of a full block; hashes of generated blocks are made on demand."""
        for i in range(len(self.hashes), index + 1):
            parent = self.hashes[-1] if i else root_hash(self.request.cache_salt)
            start, end = i * self.block_size, (i + 1) * self.block_size
            part = self.block_size if self.block_size % BLOCK_SIZE else BLOCK_SIZE
            for at in range(start, end, part):
                parent = next_hash(parent, self.tokens[at : at + part])
            self.hashes.append(parent)
        return self.hashes[index]

    def _given_hashes(self) -> list[int]:
        """Of the prompt's full blocks. A larger block is known by the hash of its last part, which
        stands for all before it; of a smaller one the request says nothing."""
        stride, rest = divmod(self.block_size, BLOCK_SIZE)
        if rest:
            return []
        hashes = self.request.block_hashes[stride - 1 :: stride]
        return list(hashes[: self.num_prompt // self.block_size])
