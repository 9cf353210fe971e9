"""What all models are made of: their base class and the types that several of them use."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from l4lb.net.address import parse_address


class Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, strict=False, validate_default=True)


def given(model: Model, option: str) -> bool:
    """Whether it was set to something else than its default, which may be written down anywhere."""
    default = type(model).model_fields[option].get_default(call_default_factory=True)
    return option in model.model_fields_set and getattr(model, option) != default


def reject_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("expected a number, not true or false")
    return value


def listify(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def one_of(kinds: tuple[str, ...], *, ranges: bool) -> AfterValidator:
    """Of an address: its kind is one of these, see `parse_address`; `ranges`: it may have a range of ports."""

    def check(text: str) -> str:
        address = parse_address(text)
        if address.kind not in kinds:
            raise ValueError(f'"{address.kind}:" addresses cannot be used here')
        if address.is_range and not ranges:
            raise ValueError("a range of ports is for listeners; here it is one port")
        return text

    return AfterValidator(check)


def _one_line(text: str) -> str:
    """What stands in lines of logs, in URLs and in file names."""
    wrong = next((char for char in text if ord(char) < 32 or ord(char) in range(127, 160)), "")
    if wrong:
        raise ValueError(f"has a control character (U+{ord(wrong):04X})")
    return text


COUNT_MAX = 2**31 - 1  # what the kernel and the data plane take
NAME_MAX = 255
Count = Annotated[int, BeforeValidator(reject_bool), Field(ge=0, le=COUNT_MAX)]
PositiveCount = Annotated[int, BeforeValidator(reject_bool), Field(ge=1, le=COUNT_MAX)]
Line = Annotated[str, AfterValidator(_one_line)]
Name = Annotated[str, Field(max_length=NAME_MAX), AfterValidator(_one_line)]
