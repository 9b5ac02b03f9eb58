"""The fabric's settings, the same on both sides of a cluster."""

from dataclasses import dataclass

from kv_transfer.tls import Tls


@dataclass(frozen=True, slots=True)
class TransferConfig:
    """Times, sizes and the choice of transport.

    transport: a name of kv_transfer.transports.registry, or "auto" (same host: shm, else tcp).
    lease_s: how long published blocks stay without a reader's heartbeat.
    dead_after_s: silence after which a source counts as hung.
    stall_s: how long a sender waits for a reader that takes no bytes.
    slack_s, expected_bytes_s: readable bytes must arrive within slack_s plus their size over a
    quarter of the expected rate. A pull that progresses has as long for the rest from its last
    byte on, up to sixteen times what the whole is allowed.
    connect_s: for a connection and each word of its handshake; what a cut of 2 s costs fits in.
    piece_bytes: the most that moves between two looks at the control channel; by nixl four times
    that, and by ucx twice, where it is one run of the pool.
    tcp_connections: data connections of a reader to one source. More than one helps where a
    network gives one connection less than its share; on a slow link each then drains slower.
    verify_share: of the regions, how many are compared by digest: 0.05 is every twentieth, 1 all.
    wire_format: how regions are written where sockets carry them: "as_is", "auto" (packed without
    loss where a link leaves more exposed than that costs), "auto_fp8" (also fp8, which loses
    precision), or a format's name, always.
    strikes, quarantine_s: so many corrupt pulls from one source within quarantine_s, and nothing
    is read from it for as long.
    device_path: how a GPU worker's blocks travel: "host" through a mirror of its pool, or "direct"
    from device to device.
    tls: of the TCP connections; None: they are plain. What goes by shared memory, RDMA or UCX is
    never encrypted, so with it `auto` knows only shm and tcp.
    """

    transport: str = "auto"
    lease_s: float = 30.0
    heartbeat_s: float = 0.5
    dead_after_s: float = 4.0
    stall_s: float = 5.0
    connect_s: float = 4.0
    slack_s: float = 2.0
    expected_bytes_s: float = 5e8
    piece_bytes: int = 8 << 20
    max_connections: int = 1024
    tcp_connections: int = 1
    verify_share: float = 0.05
    wire_format: str = "auto"
    strikes: int = 3
    quarantine_s: float = 60.0
    device_path: str = "host"
    tls: Tls | None = None

    @property
    def is_direct(self) -> bool:
        return self.device_path == "direct"

    def deadline_s(self, num_bytes: int) -> float:
        """Seconds that `num_bytes` readable bytes may stay away."""
        return self.slack_s + num_bytes / (self.expected_bytes_s / 4)

    def limit_s(self, num_bytes: int) -> float:
        """Seconds that they may take though something comes all the time."""
        return 16 * self.deadline_s(num_bytes)
