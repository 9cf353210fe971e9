"""What all models are made of: their base class and the types that several of them use."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from l4lb.config.options.paths import path_text
from l4lb.config.options.refusals import error_path, message_of
from l4lb.errors import ConfigError, Problem, UsageError
from l4lb.net.address import parse_address

_SHOWN_MAX = 4  # of a list or table, in a repr


class Model(BaseModel):
    """Options that belong together; immutable. Constructors raise `ConfigError` with everything that is wrong."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, strict=False, validate_default=True)
    first_option: ClassVar[str] = ""  # what an argument without a name is

    if not TYPE_CHECKING:  # type checkers know the constructor by the fields

        def __init__(self, /, *args: Any, **settings: Any) -> None:
            options = _with_first(type(self), args, settings)
            try:
                super().__init__(**options)
            except ValidationError as error:
                raise _refusal(type(self), error, options) from None

        # Of a model within another pydantic makes no call: its errors are then those of the outer one, with the path.
        __init__.__pydantic_base_init__ = True

    def __repr_args__(self) -> Iterator[tuple[str, Any]]:
        """What was set to something else than its default."""
        for option in type(self).model_fields:
            if given(self, option):
                yield option, _Short(getattr(self, option))


class _Short:
    """The repr of a value on one line, without most of a long list."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __repr__(self) -> str:
        value = self._value
        if isinstance(value, list | tuple) and len(value) > _SHOWN_MAX:
            shown = ", ".join(map(repr, value[: _SHOWN_MAX - 1]))
            return f"[{shown}, ... {len(value) - _SHOWN_MAX + 1} more]"
        return repr(value)


def _with_first(kind: type[Model], args: tuple[Any, ...], settings: dict[str, Any]) -> dict[str, Any]:
    """The keyword arguments, with the one that may be given without its name."""
    if not args:
        return settings
    if not kind.first_option:
        example = f'{kind.__name__}.load("lb.toml") reads a file, and ' if hasattr(kind, "load") else ""
        raise UsageError(f"{kind.__name__}: {example}options are given by name; see help({kind.__name__})")
    if len(args) > 1 or kind.first_option in settings:
        raise UsageError(f"{kind.__name__}: only {kind.first_option} may be given without its name, and once")
    return {kind.first_option: args[0], **settings}


def _refusal(kind: type[Model], error: ValidationError, settings: dict[str, Any]) -> ConfigError:
    found = [(error_path(details, settings), details) for details in error.errors()]
    prefix = () if hasattr(kind, "load") else (kind.__name__,)
    return ConfigError(
        [Problem(path_text((*prefix, *path)), message_of(details, path, kind)) for path, details in found]
    )


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


def addresses(value: Any) -> Any:
    """A single address is a list of one; a bare port is none."""
    if isinstance(value, int) and not isinstance(value, bool):
        raise ValueError(f'expected an address such as ":{value}" or "127.0.0.1:{value}"')
    if not isinstance(value, str | list | tuple):
        raise ValueError('expected an address such as ":8080", or a list of them')
    return listify(value)


def argv(value: Any) -> Any:
    if isinstance(value, str):
        raise ValueError('expected a list such as ["/usr/bin/check", "--fast"]; there is no shell')
    return value


def one_of(kinds: tuple[str, ...], *, ranges: bool) -> AfterValidator:
    """Of an address: its kind is one of these, see `parse_address`; `ranges`: it may have a range of ports."""

    def check(text: str) -> str:
        several = [one.strip() for one in text.split(",")]
        if len(several) > 1 and not text.startswith("unix:"):
            raise ValueError(f"expected one address; several are a list: [{', '.join(map(json.dumps, several))}]")
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
