"""What the router expects of one worker at this moment, as values that a policy can read."""

from collections import deque
from dataclasses import dataclass, replace
from math import exp, inf
from statistics import median

from router.load import WorkerLoad
from router.predictor import StepCosts, StepPredictor
from router.under_way import StepUnderWay
from wire.messages import StepTotals

_NUM_ANSWERS = 32  # that tell the time around the engine
_FADE = 0.02  # how fast an old best rate and old latencies lose their say, per transfer


@dataclass(frozen=True, slots=True)
class LinkCosts:
    """KV into one worker: seconds a token on the wire, and what no overlap hides.

    token_bytes: of a token's KV on the wire; 0 until a transfer has told it.
    """

    token_s: float = 0.0
    latency_s: float = 0.0
    tail_share: float = 0.125  # of a transfer that can start only when prefill has ended
    token_bytes: float = 0.0


@dataclass(frozen=True, slots=True)
class Outlook:
    """A warm worker. num_seqs, context_tokens: its decode batch, with all that is on its way.

    queue_s: prefill work that waits. prefill_share: the share of its recent time that prefill took.
    backlog_s: transfers under way. margin: cautious over expected time, at least 1. path_s: of the
    time to a first token what is neither queue nor prefill, as measured: hops, loops, a step that
    was under way. num_coming, coming_tokens: of num_seqs and context_tokens, what has no first
    token yet. pace_margin: as Paces has it. host_block_s: what a block takes from the host's memory
    to the device; 0: not measured. since_s, longest_s: as StepUnderWay has them.
    """

    costs: StepCosts
    margin: float
    num_seqs: int
    context_tokens: int
    queue_s: float
    prefill_share: float
    link: LinkCosts
    backlog_s: float
    tpot_s: float = 0.0  # what a sequence of the batch gets at present
    path_s: float = 0.0
    num_coming: int = 0
    coming_tokens: int = 0
    pace_margin: float = 1.0
    host_block_s: float = 0.0
    since_s: float = inf
    longest_s: float = 0.0

    def queue_at(self, now_s: float) -> float:
        """queue_s less what the step that is under way has had of it, beyond the step's base."""
        had_s = min(now_s - self.since_s, self.longest_s) - self.costs.step_s
        return max(0.0, self.queue_s - had_s) if had_s > 0 else self.queue_s

    def batch_in(self, wait_s: float, answer_tokens: float, over_s: float) -> tuple[float, float]:
        """Sequences, and tokens in their KV, beside an answer that begins in wait_s, halfway
        through it.

        An answer ends at the rate 1 / (answer_tokens * tpot_s); what is on its way comes evenly
        over over_s, in which the prompts that wait are computed. What is placed later takes the
        place of what ends, so that the batch is at least what decodes at present.
        """
        life_s = answer_tokens * self.tpot_s
        if not self.num_seqs or life_s <= 0:
            return self.num_seqs, self.context_tokens
        wait_s += 0.5 * life_s
        stays = exp(-wait_s / life_s)
        comes = (1 - stays) * life_s / (wait_s if wait_s > over_s else over_s)
        num_seqs_now = self.num_seqs - self.num_coming
        context_now = self.context_tokens - self.coming_tokens
        num_seqs = stays * num_seqs_now + comes * self.num_coming
        context = stays * context_now + comes * self.coming_tokens
        return (
            num_seqs if num_seqs > num_seqs_now else num_seqs_now,
            context if context > context_now else context_now,
        )


def warm(outlook: Outlook | None) -> Outlook:
    """Of a worker whose predictor is known not to be cold."""
    assert outlook is not None, "who asks has looked for cold workers first"
    return outlook


class WorkerForecast:
    """One worker's predictors, fed by its reports and transfers. Pure: time is an argument.

    What its pool has learned from others counts from renew() on, so that an outlook is the same
    whenever it is asked for.
    """

    def __init__(
        self,
        seed: StepCosts | None = None,
        pool: StepPredictor | None = None,
        link: LinkCosts = LinkCosts(),
    ) -> None:
        self.steps = StepPredictor(seed, pool)
        self._link = link
        self._has_link = link.token_s > 0
        self._best_bytes_s = 0.0
        self._around_s: deque[float] = deque(maxlen=_NUM_ANSWERS)
        self._path_s = 0.0
        self._unexplained_s: deque[float] = deque(maxlen=_NUM_ANSWERS)
        self._latency_s = link.latency_s
        self._shared = pool or self.steps
        self.step = StepUnderWay()
        self.renew()

    def renew(self) -> None:
        """Takes over what the pool knows at this moment of paces and of a token's weight."""
        self._pace_margin = self._shared.paces.margin
        self._token_bytes = self._shared.token_bytes

    def reported(self, totals: StepTotals, now_s: float) -> None:
        self.steps.observe(totals, now_s)

    def measured(self, best_bytes_s: float) -> None:
        """The fastest way into this worker, as it has measured it; 0: it has not."""
        self._best_bytes_s = best_bytes_s

    def transferred(self, num_tokens: int, num_bytes: int, transfer_s: float) -> None:
        """A pull of num_tokens into this worker. Where nothing was measured, the fastest pull tells
        the link's rate; since pulls begin with their prefill, that is no more than a bound.
        """
        if num_tokens < 1 or num_bytes < 1:
            return
        link, shared = self._link, self._shared
        token_bytes = max(num_bytes / num_tokens, link.token_bytes)  # less where some was cached
        shared.token_bytes = max(token_bytes, shared.token_bytes)
        token_s = transfer_s * token_bytes / num_bytes
        if self._has_link:
            token_s = min(token_s, link.token_s * (1 + _FADE))
        self._link = replace(link, token_s=token_s, token_bytes=token_bytes)
        self._has_link = True

    def exposed(self, predicted_s: float, exposed_s: float) -> None:
        """Of a pull exposed_s were exposed, of which rate and backlog explained predicted_s."""
        self._unexplained_s.append(exposed_s - predicted_s)
        self._latency_s = max(0.0, median(self._unexplained_s))

    def answered(self, predicted_s: float, taken_s: float) -> None:
        """A first token came taken_s after its placement; its queue and prefill were predicted."""
        self._around_s.append(taken_s - predicted_s)
        self._path_s = max(0.0, median(self._around_s))

    def decoded(self, predicted_s: float, taken_s: float) -> None:
        """An answer's tokens took taken_s each; predicted_s was forecast."""
        if predicted_s > 0:
            self._shared.paces.add(taken_s / predicted_s)

    def outlook(self, load: WorkerLoad) -> Outlook | None:
        """None while the predictor is cold."""
        costs = self.steps.costs()
        if costs is None:
            return None
        share = self.steps.prefill_share
        num_coming, coming_tokens = load.coming
        # A report may be older than a leg that it should count.
        num_seqs = max(load.num_decoding, num_coming)
        context = max(load.context_tokens, coming_tokens)
        token_s, pair_s, link = costs.prefill_token_s, costs.prefill_pair_s, self._link_costs()
        return Outlook(
            costs=costs,
            margin=self.steps.margin,
            num_seqs=num_seqs,
            context_tokens=context,
            queue_s=token_s * load.waiting_tokens + pair_s * load.waiting_pairs,
            prefill_share=share,
            link=link,
            backlog_s=load.pulling_tokens * link.token_s,
            tpot_s=costs.itl_s(num_seqs, context) / max(0.05, 1 - share),
            path_s=self._path_s,
            num_coming=num_coming,
            coming_tokens=coming_tokens,
            pace_margin=self._pace_margin,
            host_block_s=0.0 if load.report is None else load.report.host.block_s,
            since_s=self.step.since_s,
            longest_s=self.step.longest_s,
        )

    def _link_costs(self) -> LinkCosts:
        """A worker that has not pulled knows from others of its kind what a token weighs."""
        token_s, token_bytes = self._link.token_s, self._link.token_bytes
        token_bytes = token_bytes or self._token_bytes
        if self._best_bytes_s > 0 and token_bytes:
            token_s = token_bytes / self._best_bytes_s
        return LinkCosts(token_s, self._latency_s, self._link.tail_share, token_bytes)
