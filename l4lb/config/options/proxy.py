"""The options of the PROXY protocol: whom a listener trusts, what a pool tells besides the endpoints."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag

from l4lb.config.options.base import Model, reject_bool
from l4lb.config.options.patterns import parse_bytes
from l4lb.model.hints import did_you_mean
from l4lb.net.ranges import parse_network

OWN_TYPES = range(0xE0, 0xF0)  # PROXY 2.2.8: free for applications
OWN_BYTES_MAX = 1024  # of all own TLVs of a pool; a header is to fit one segment


def _network(text: str) -> str:
    parse_network(text)
    return text


def _value(text: str) -> str:
    if len(parse_bytes(text)) > OWN_BYTES_MAX:
        raise ValueError(f"at most {OWN_BYTES_MAX} bytes")
    return text


def _own_type(value: int) -> int:
    if value not in OWN_TYPES:
        raise ValueError("expected a type from 0xE0 to 0xEF: the others are not for applications")
    return value


def _named(value: Any) -> Any:
    names = list(get_args(Named))
    if not isinstance(value, str | dict | OwnTlv) or (isinstance(value, str) and value not in names):
        hint = did_you_mean(value, names) if isinstance(value, str) else ""
        raise ValueError(f'expected one of {", ".join(names)}, or {{ type = 0xE4, value = "text" }}{hint}')
    return value


Network = Annotated[str, AfterValidator(_network)]


class OwnTlv(Model):
    """A TLV of the operator's own."""

    type: Annotated[int, BeforeValidator(reject_bool), AfterValidator(_own_type)] = Field(
        description="from 0xE0 to 0xEF, which are for applications"
    )
    value: Annotated[str, AfterValidator(_value)] = Field(description="text or hex:...")

    @property
    def packed(self) -> bytes:
        value = parse_bytes(self.value)
        return bytes([self.type]) + len(value).to_bytes(2, "big") + value


Named = Literal["crc32c", "unique_id", "authority", "alpn", "netns", "received"]
Tlv = Annotated[
    Annotated[Named, Tag("(named)")] | Annotated[OwnTlv, Tag("(own)")],
    Discriminator(lambda value: "(named)" if isinstance(value, str) else "(own)"),
    BeforeValidator(_named),
]
