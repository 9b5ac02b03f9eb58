"""What the answers asked and got, as sums from which a planner sizes the pools."""

from router.output import RequestTrace
from runtime.metrics import Metrics


class AnswerMeter:
    """Counts each prompt at its first token, and each answer at its end, once.

    Prompts do not wait for their answers: a planner sees at once that they have changed. Requests
    that ended without a token count nowhere here.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def began(self, prompt: int, cached: int, is_local: bool = False) -> None:
        """A first token: of `prompt` tokens, `cached` were not computed. is_local: by choice, a
        decode worker computed the others."""
        count, uncached = self._metrics.counter, max(0, prompt - cached)
        count("baton_answers_begun_total").inc()
        count("baton_answer_cached_tokens_total").inc(cached)
        count("baton_uncached_tokens_total").inc(uncached)
        count("baton_local_tokens_total").inc(uncached if is_local else 0)
        count("baton_uncached_token_squares_total").inc(uncached**2)
        count("baton_prefill_pairs_total").inc(prompt**2 - cached**2 if uncached else 0)

    def ended(self, trace: RequestTrace) -> None:
        """A request has ended, with its lengths, latencies and objectives."""
        if not trace.num_output_tokens or not trace.ttft_s:
            return
        count, output = self._metrics.counter, trace.num_output_tokens
        count("baton_answers_total").inc()
        count("baton_answer_tokens_total").inc(output)
        context = output * (trace.num_prompt_tokens + output / 2)
        count("baton_context_token_steps_total").inc(context)
        if trace.ttft_slo_s > 0 and trace.tpot_slo_s > 0:
            self._count_objectives(trace)

    def _count_objectives(self, trace: RequestTrace) -> None:
        count = self._metrics.counter
        count("baton_ttft_objective_seconds_total").inc(trace.ttft_slo_s)
        count("baton_tpot_objective_seconds_total").inc(trace.tpot_slo_s)
        met = {
            "ttft": self._ratio("ttft", trace.ttft_s, trace.ttft_slo_s),
            "tpot": trace.num_output_tokens == 1
            or self._ratio("tpot", trace.tpot_s, trace.tpot_slo_s),
        }
        names = [name for name, is_met in met.items() if is_met]
        shown = "both" if len(names) == 2 else (names or ["none"])[0]
        self._metrics.counter("baton_goodput_total", met=shown).inc()
        if trace.predicted is not None:
            predicted_ttft_s = trace.placed_s + trace.predicted.ttft_s
            self._ratio("ttft", predicted_ttft_s, trace.ttft_slo_s, "predicted")
            self._ratio("tpot", trace.predicted.tpot_s, trace.tpot_slo_s, "predicted")

    def _ratio(
        self, objective: str, latency_s: float, slo_s: float, kind: str = "measured"
    ) -> bool:
        histogram = self._metrics.histogram("baton_slo_ratio", objective=objective, kind=kind)
        histogram.observe(latency_s / slo_s)
        return latency_s <= slo_s
