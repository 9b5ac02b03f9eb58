"""What the span of a request tells, by OpenTelemetry's conventions for generative AI."""

from gateway.usage import Used

_OPERATIONS = {"chat": "chat", "responses": "chat", "messages": "chat"}


def operation_of(endpoint: str) -> str:
    """gen_ai.operation.name, which is also the span's name."""
    return _OPERATIONS.get(endpoint, "text_completion")


def span_attributes(
    endpoint: str, request_id: str, used: Used | None
) -> dict[str, str | int | float | bool]:
    """used: None for a request that was refused before it ran."""
    shown: dict[str, str | int | float | bool] = {
        "gen_ai.operation.name": operation_of(endpoint),
        "gen_ai.provider.name": "baton",
        "gen_ai.response.id": request_id,
        "baton.endpoint": endpoint,
    }
    if used is None:
        return shown
    shown |= {
        "gen_ai.request.model": used.model,
        "gen_ai.response.model": used.model,
        "gen_ai.usage.input_tokens": used.num_prompt_tokens,
        "gen_ai.usage.output_tokens": used.num_output_tokens,
        "gen_ai.usage.cache_read.input_tokens": used.num_cached_tokens,
    }
    if used.traces:
        first_s = min(trace.ttft_s for trace in used.traces)
        shown["gen_ai.response.time_to_first_chunk"] = first_s
    return shown
