"""What a request may take up of the gateway; one table for every protocol that it speaks."""

from dataclasses import dataclass

MAX_WAITING_DELTAS = 4096
MAX_HEADER_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes and times; 0: no limit of the gateway's own, where the field says so.

    max_prompt_tokens: of one prompt; 0: the model's context. max_choices: answers of one request.
    header_timeout_s: from a connection's or a request's first byte to the end of its headers.
    body_timeout_s: for the whole body. first_token_timeout_s: from the valid request to the first
    token of each answer that has none; 0: none. request_timeout_s: to the answer's end; 0: none.
    stall_timeout_s: a client that takes nothing off a full connection for so long is cut off.
    """

    max_body_bytes: int = 4 << 20
    max_prompt_tokens: int = 0
    max_choices: int = 128
    header_timeout_s: float = 15.0
    body_timeout_s: float = 30.0
    first_token_timeout_s: float = 0.0
    request_timeout_s: float = 0.0
    stall_timeout_s: float = 30.0
