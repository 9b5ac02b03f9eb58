"""What a request must satisfy before the engine takes it."""

from engine.options import EngineConfig
from engine.sequence import EngineRequest
from wire.errors import BatonError, ErrorCode


def check_request(request: EngineRequest, config: EngineConfig, vocab_size: int) -> None:
    """Raises BatonError, naming both numbers, when the request could never be answered."""
    known = (*request.prompt_tokens, *request.output_tokens)
    if not request.prompt_tokens:
        raise BatonError(ErrorCode.INVALID_REQUEST, "the prompt has no tokens")
    if min(known) < 0 or max(known) >= vocab_size:
        worst = max(known) if max(known) >= vocab_size else min(known)
        raise BatonError(
            ErrorCode.INVALID_REQUEST,
            f"token id {worst} is outside the vocabulary of {vocab_size} tokens",
        )
    _check_bias(request, vocab_size)
    max_tokens = request.sampling.max_tokens
    if len(request.output_tokens) >= max_tokens:
        raise BatonError(
            ErrorCode.INVALID_REQUEST,
            f"{len(request.output_tokens)} output tokens are known of at most {max_tokens}",
        )
    _check_length(request, config)


def _check_bias(request: EngineRequest, vocab_size: int) -> None:
    for token, _ in request.sampling.logit_bias:
        if not 0 <= token < vocab_size:
            raise BatonError(
                ErrorCode.INVALID_REQUEST,
                f"logit_bias has the token id {token}; the vocabulary has {vocab_size} tokens",
            )


def _check_length(request: EngineRequest, config: EngineConfig) -> None:
    num_tokens = len(request.prompt_tokens) + request.sampling.max_tokens
    if num_tokens > config.max_model_len:
        raise BatonError(
            ErrorCode.CONTEXT_LENGTH_EXCEEDED,
            f"prompt and max_tokens make {num_tokens} tokens; "
            f"the context holds {config.max_model_len}",
        )
    # The last token is never fed back, so its keys and values need no place.
    stored = num_tokens - 1
    if request.prefill_only:
        stored = len(request.prompt_tokens) + len(request.output_tokens)
    needed = config.blocks_for(stored)
    if needed > config.num_blocks:
        raise BatonError(
            ErrorCode.OVERLOADED,
            f"the request needs {needed} KV blocks; the pool has {config.num_blocks}",
        )
