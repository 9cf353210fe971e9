"""The options of limits by source."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from l4lb.config.options.base import Count, Model, reject_bool
from l4lb.config.options.units import Bandwidth, Rate


class PerSourceConfig(Model):
    """Limits of each source of a listener: all clients whose addresses begin with the same bits."""

    sessions: Count = Field(default=0, description="at once; 0: any number")
    session_rate: Rate = Field(default=0.0, description="new sessions a second; a second's worth may come at once")
    bandwidth_up: Bandwidth = Field(default=0.0, description="of all its sessions together, client to backend")
    bandwidth_down: Bandwidth = Field(default=0.0, description="of all its sessions together, backend to client")
    prefix_v4: Annotated[int, BeforeValidator(reject_bool), Field(ge=1, le=32)] = Field(
        default=32, description="so many bits of an address tell a source"
    )
    prefix_v6: Annotated[int, BeforeValidator(reject_bool), Field(ge=1, le=128)] = Field(
        default=64, description="of IPv6; 64: one network, of which a client may use any address"
    )
    action: Literal["reset", "close"] = Field(default="reset", description="what a refused client sees; udp: nothing")
    dry_run: bool = Field(default=False, description="count what exceeds a limit; refuse and delay nothing")

    @property
    def limits(self) -> bool:
        """Whether there is a limit: only then sources are counted."""
        return bool(self.sessions or self.session_rate or self.bandwidth_up or self.bandwidth_down)
