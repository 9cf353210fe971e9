"""The options of a listener's routes."""

from __future__ import annotations

import re
from functools import cached_property
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from l4lb.config.options.base import Model, Name, listify, reject_bool
from l4lb.config.options.patterns import parse_bytes
from l4lb.config.options.proxy import Network
from l4lb.net.access import united_ranges

STARTS_MAX = 64  # bytes of one text
NAME_MAX = 253  # RFC 1035 2.3.4, without the last dot
_NAME = re.compile(r"(\*\.)?[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")


def _server_name(text: str) -> str:
    name = text.lower().removesuffix(".")
    if not name.isascii():
        raise ValueError('write it as it is sent, beginning with "xn--" (RFC 5891)')
    if not _NAME.fullmatch(name) or len(name) > NAME_MAX:
        raise ValueError('expected a server name such as "api.example.com", or "*.example.com" for all below it')
    return name


def _protocol(text: str) -> str:
    if not 1 <= len(text.encode()) <= 255:
        raise ValueError('expected a protocol such as "h2", of 1 to 255 bytes')
    return text


def _starts(text: str) -> str:
    if not 1 <= len(parse_bytes(text)) <= STARTS_MAX:
        raise ValueError(f'expected 1 to {STARTS_MAX} bytes, such as "SSH-" or "hex:1603"')
    return text


Weight = Annotated[int, BeforeValidator(reject_bool), Field(ge=0, le=65535)]


class Route(Model):
    """Which clients go to another pool than the listener's: all conditions that are given must hold."""

    sni: Annotated[list[Annotated[str, AfterValidator(_server_name)]], BeforeValidator(listify)] = Field(
        default_factory=list, description="server names of the TLS or QUIC ClientHello; *.example.com: all below it"
    )
    alpn: Annotated[list[Annotated[str, AfterValidator(_protocol)]], BeforeValidator(listify)] = Field(
        default_factory=list, description="the client offers one of these protocols"
    )
    starts_with: Annotated[list[Annotated[str, AfterValidator(_starts)]], BeforeValidator(listify)] = Field(
        default_factory=list, description="first bytes of the client, text or hex:..., tcp"
    )
    source: Annotated[list[Network], BeforeValidator(listify)] = Field(
        default_factory=list, description="CIDRs of clients"
    )
    pool: str = Field(default="", description="where they go")
    split: dict[Name, Weight] = Field(
        default_factory=dict, description="instead of pool: several by weight, always the same one for an address"
    )

    @model_validator(mode="after")
    def _has_target(self) -> Route:
        if bool(self.pool) == bool(self.split):
            raise ValueError("expected pool or split" + (", not both" if self.pool else ""))
        if not self.pool and not any(self.split.values()):
            raise ValueError("split: expected at least one pool with a weight above 0")
        return self

    @property
    def targets(self) -> dict[str, int]:
        """Pools with their weights, all above 0."""
        return {self.pool: 1} if self.pool else {pool: weight for pool, weight in self.split.items() if weight}

    @property
    def pools(self) -> list[str]:
        """The pool, or those of the split."""
        return [self.pool] if self.pool else list(self.split)

    @property
    def conditions(self) -> dict[str, list[str]]:
        """Those that are given, by the names of the options."""
        given = {"sni": self.sni, "alpn": self.alpn, "starts_with": self.starts_with, "source": self.source}
        return {option: list(wanted) for option, wanted in given.items() if wanted}

    @property
    def takes_all(self) -> bool:
        """No condition is given."""
        return not self.conditions

    @cached_property
    def ranges(self) -> bytes | None:
        """The sources, as `l4lb.net.ranges` packs them; None: any."""
        return united_ranges(self.source) if self.source else None
