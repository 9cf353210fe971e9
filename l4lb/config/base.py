"""What all models are made of: their base class and the types that several of them use."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


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


Count = Annotated[int, BeforeValidator(reject_bool), Field(ge=0)]
PositiveCount = Annotated[int, BeforeValidator(reject_bool), Field(ge=1)]
