"""Proof that both ends know the cluster's secret, before anything can be read."""

import hmac
import secrets
from dataclasses import dataclass

from kv_transfer.channel import Channel
from kv_transfer.control import (
    MAX_FRAME_BYTES,
    PROTOCOL,
    Challenge,
    Hello,
    Refused,
    Welcome,
)
from kv_transfer.errors import FailReason, TransferError
from wire.kv import KVLayout, mapping_refusal

_NONCE_BYTES = 32


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a source is: which process of which worker. signature: the layout of the one who asks."""

    worker_id: str
    epoch: int
    signature: str


def join(
    channel: Channel, secret: bytes, purpose: str, peer: Identity, timeout_s: float
) -> KVLayout:
    """The reader's side; gives the layout of the source's pool.

    Raises TransferError: NOT_A_MEMBER, LAYOUT_MISMATCH, STALE_PEER, MALFORMED, PEER_LOST or
    PEER_HUNG.
    """
    challenge = channel.receive_one(timeout_s)
    if not isinstance(challenge, Challenge) or challenge.protocol != PROTOCOL:
        raise TransferError(FailReason.MALFORMED, "the peer speaks another protocol")
    nonce = secrets.token_bytes(_NONCE_BYTES)
    proof = _proof(secret, "reader", challenge.nonce, nonce, purpose, peer)
    channel.send(Hello(purpose, nonce, proof, peer.worker_id, peer.epoch, peer.signature))
    answer = channel.receive_one(timeout_s)
    if isinstance(answer, Refused):
        raise TransferError(answer.reason, answer.message)
    if not isinstance(answer, Welcome):
        raise TransferError(FailReason.MALFORMED, "the peer answered with another frame")
    expected = _proof(secret, "source", challenge.nonce, nonce, purpose, peer)
    if not hmac.compare_digest(answer.proof, expected):
        raise TransferError(FailReason.NOT_A_MEMBER, "the source does not know the secret")
    channel.allow_long_frames(MAX_FRAME_BYTES)
    return _source_layout(answer, peer.signature)


def admit(channel: Channel, secret: bytes, me: Identity, num_blocks: int, timeout_s: float) -> str:
    """The source's side; gives the purpose of the connection.

    Raises TransferError after the peer was told: NOT_A_MEMBER, LAYOUT_MISMATCH, STALE_PEER.
    """
    challenge = Challenge(secrets.token_bytes(_NONCE_BYTES))
    channel.send(challenge)
    hello = channel.receive_one(timeout_s)
    if not isinstance(hello, Hello):
        raise TransferError(FailReason.MALFORMED, "the peer did not say hello")
    asked = Identity(hello.worker_id, hello.epoch, hello.signature)
    proof = _proof(secret, "reader", challenge.nonce, hello.nonce, hello.purpose, asked)
    if not hmac.compare_digest(hello.proof, proof):
        raise _refuse(channel, FailReason.NOT_A_MEMBER, "the cluster's secret is another one")
    if refusal := _refusal(asked.signature, me.signature):
        text = f"KV layout {asked.signature} cannot be copied from {me.signature}: {refusal}"
        raise _refuse(channel, FailReason.LAYOUT_MISMATCH, text[:512])
    if (asked.worker_id, asked.epoch) != (me.worker_id, me.epoch):
        text = f"this is {me.worker_id} epoch {me.epoch}, another worker was meant"
        raise _refuse(channel, FailReason.STALE_PEER, text[:512])
    channel.send(
        Welcome(
            _proof(secret, "source", challenge.nonce, hello.nonce, hello.purpose, asked),
            num_blocks,
            me.signature,
        )
    )
    channel.allow_long_frames(MAX_FRAME_BYTES)
    return hello.purpose


def _refusal(reader: str, source: str) -> str:
    """Why the reader's layout cannot be read from this one, empty where it can."""
    try:
        theirs, mine = KVLayout.from_signature(source, 1), KVLayout.from_signature(reader, 1)
    except ValueError as error:
        return str(error)
    return mapping_refusal(theirs, mine)


def _source_layout(answer: Welcome, mine: str) -> KVLayout:
    try:
        layout = KVLayout.from_signature(answer.signature, answer.num_blocks)
    except ValueError as error:
        raise TransferError(FailReason.MALFORMED, str(error)) from error
    if refusal := _refusal(mine, answer.signature):
        text = f"{answer.signature} cannot be read: {refusal}"
        raise TransferError(FailReason.LAYOUT_MISMATCH, text)
    return layout


def _refuse(channel: Channel, reason: FailReason, text: str) -> TransferError:
    channel.send(Refused(0, reason, text))
    return TransferError(reason, text)


def _proof(
    secret: bytes, side: str, source: bytes, reader: bytes, purpose: str, peer: Identity
) -> bytes:
    named = f"{side}|{purpose}|{peer.worker_id}|{peer.epoch}|{peer.signature}".encode()
    return hmac.digest(secret, source + reader + named, "sha256")
