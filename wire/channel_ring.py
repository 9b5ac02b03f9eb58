"""A channel to one of several addresses, each tried in turn."""

from wire.rpc import Channel, open_channel


class ChannelRing:
    """Whoever has it closes it. addresses: host:port, several parted by commas."""

    def __init__(self, addresses: str) -> None:
        self._addresses = [word.strip() for word in addresses.split(",") if word.strip()]
        assert self._addresses, "no address"
        self._at = 0
        self.channel: Channel = open_channel(self.address)

    @property
    def address(self) -> str:
        return self._addresses[self._at]

    async def move_on(self) -> None:
        """The call failed: the next address is tried. A sole one keeps its channel."""
        if len(self._addresses) == 1:
            return
        await self.channel.close(None)
        self._at = (self._at + 1) % len(self._addresses)
        self.channel = open_channel(self.address)

    async def close(self) -> None:
        await self.channel.close(None)
