"""The desired state in three layers: the file's configuration, what sources discovered, runtime changes. Pure; control
loop only.

A pool has the backends that the file names, then those that its source names at other addresses: one that both name is
the file's, in every key, and stays when the source no longer names it. Together they are the `base`, over which runtime
changes go. What a source named stays until it names something else, the file gives the pool no discovery any more, or
the process ends.

The rule for runtime changes: each survives a reload, and a new answer of a source, unless the base contradicts it.
"The file" below is the base, entry by entry.

- A key that was set holds until the file's own value for that key differs from the one at that time.
- A backend that was added stays until the file names it, or no longer has its pool.
- A backend that was removed stays removed until the file's entry for it changes in any key.
- A listener that was drained accepts nothing until the file's entry for it changes in any key.
- A ban holds until it is over, or the file no longer has its listener.

So each `Override`, and each drained listener, remembers what the file said. The same rule applies to a state file that
a later process reads. Until the source of a pool has answered there, changes of backends that nobody names yet wait.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self, cast

from pydantic import TypeAdapter, ValidationError

from l4lb.config import Backend, Config, Listener, Pool, build_backend
from l4lb.config.options.paths import path_text
from l4lb.config.rules.checks import backend_conflicts
from l4lb.config.rules.kernel import kernel_backend_conflicts
from l4lb.config.rules.loops import loop_conflicts
from l4lb.control.state.bans import Bans
from l4lb.errors import ChangeError, ConfigError, Problem

_IDENTITY = ("address", "id")
_WITH = "with what was discovered, or changed at runtime"
_ANY = "127.0.0.1:1"  # for models that require an address that does not matter


@dataclass(frozen=True, slots=True)
class Override:
    """The runtime changes of one backend, as in JSON: `settings` by key, or that it is `removed`.

    `file` is what the file said then for these keys, or for all keys when it was removed. None: the file did not name
    the backend; `settings` describe all of it.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    file: Mapping[str, Any] | None = None
    removed: bool = False


Overrides = Mapping[str, Override]  # of one pool, by the backend's id
Overlay = Mapping[str, Overrides]  # by pool
Drained = Mapping[str, Mapping[str, Any]]  # by listener: its entry in the file
Discovered = Mapping[str, tuple[Backend, ...]]  # by pool, once its source has answered


_SAVED = TypeAdapter(dict[str, dict[str, Override]])
_DISCOVERED = TypeAdapter(dict[str, tuple[Backend, ...]])
_DRAINED = TypeAdapter(dict[str, dict[str, Any]])


def saved(overlay: Overlay) -> dict[str, Any]:
    """The overlay as JSON, for a state file or another process."""
    return cast("dict[str, Any]", _SAVED.dump_python({name: dict(one) for name, one in overlay.items()}, mode="json"))


def restored(said: object) -> Overlay:
    """The inverse of `saved`. ValueError, with the place, for anything else."""
    try:
        overlay = _SAVED.validate_python(said)
    except ValidationError as error:
        raise _misfit(error, "pools") from None
    for pool, overrides in overlay.items():
        for key, override in overrides.items():
            _check_restored(override, key, f"pools.{pool}.{key}.settings")
    return overlay


def _check_restored(override: Override, key: str, place: str) -> None:
    """Its settings must be those of a backend: with that `key` if it was added, else of one that the file names."""
    try:
        added = override.file is None
        backend = Backend.model_validate({**({} if added else {"address": _ANY}), **override.settings})
    except ValidationError as error:
        raise _misfit(error, place) from None
    if (added and backend.key != key) or (not added and override.settings.keys() & set(_IDENTITY)):
        raise ValueError(f'{place}: not of the backend "{key}"')


def restored_drained(said: object) -> Drained:
    """The same for drained listeners, which are saved as they are."""
    try:
        return _DRAINED.validate_python(said)
    except ValidationError as error:
        raise _misfit(error, "drained") from None


def saved_discovered(discovered: Discovered) -> dict[str, Any]:
    """What sources named, as JSON, for another process."""
    return {
        pool: [one.model_dump(mode="json", exclude_defaults=True) for one in some] for pool, some in discovered.items()
    }


def restored_discovered(said: object) -> Discovered:
    """The inverse. ValueError, with the place, for anything else."""
    try:
        return _DISCOVERED.validate_python(said)
    except ValidationError as error:
        raise _misfit(error, "discovered") from None


def _misfit(error: ValidationError, place: str) -> ValueError:
    first = error.errors(include_url=False)[0]
    return ValueError(f"{'.'.join(map(str, (place, *first['loc'])))}: {first['msg']}")


def _said(entry: Backend | Listener) -> dict[str, Any]:
    return entry.model_dump(mode="json")


def _says_still(entry: Backend | Listener, before: Mapping[str, Any]) -> bool:
    """Whether the file's entry still has the same values for the keys in `before`."""
    said = _said(entry)
    return all(said.get(key) == value for key, value in before.items())


def still_holds(override: Override, entry: Backend | None) -> Override | None:
    """What remains of `override` now that the file's entry for the backend is `entry`."""
    if override.file is None:
        return override if entry is None else None
    if entry is None:
        return None
    if override.removed:
        return override if _says_still(entry, override.file) else None
    said = _said(entry)
    kept = {key: value for key, value in override.settings.items() if said.get(key) == override.file.get(key)}
    return replace(override, settings=kept) if kept else None


def _merged(pool: Pool, overrides: Overrides) -> Pool:
    """The pool with its overrides: the file's backends in its order, then the added ones in theirs."""
    if not overrides:
        return pool
    backends = []
    for entry in pool.backends:
        override = overrides.get(entry.key)
        if override is None:
            backends.append(entry)
        elif not override.removed:
            backends.append(Backend.model_validate(_said(entry) | dict(override.settings)))
    named = {entry.key for entry in pool.backends}
    added = [one.settings for key, one in overrides.items() if key not in named and one.file is None]
    backends += [Backend.model_validate(dict(settings)) for settings in added]
    return pool.model_copy(update={"backends": backends})


def _with_discovered(pool: Pool, discovered: Sequence[Backend]) -> Pool:
    """The pool with the backends that its source names at other addresses than the file."""
    named = {entry.address for entry in pool.backends}
    more = [entry for entry in discovered if entry.address not in named]
    return pool.model_copy(update={"backends": [*pool.backends, *more]}) if more else pool


def _with_pools(config: Config, pools: Mapping[str, Pool]) -> Config:
    """Itself when these are its own."""
    if all(config.pools[name] is pool for name, pool in pools.items()):
        return config
    return config.model_copy(update={"pools": {**config.pools, **pools}})


def _kept(pool: Pool, overrides: Overrides, *, complete: bool) -> dict[str, Override]:
    """What remains of them over that base; not `complete`: its source has not answered yet."""
    if not overrides:
        return {}
    entries = {entry.key: entry for entry in pool.backends}
    found = {
        key: override if not complete and key not in entries else still_holds(override, entries.get(key))
        for key, override in overrides.items()
    }
    return {key: override for key, override in found.items() if override is not None}


def _conflicts(config: Config, names: list[str], before: Config | None = None) -> Iterator[Problem]:
    """Conflicts in these pools, although the file alone is valid, and so is all of `before`."""
    for name in names:
        loops = loop_conflicts(config, [name], before=before)
        for path, message in [*backend_conflicts(name, config.pools[name]), *loops]:
            yield config.problem(path, f"{message} ({_WITH})")


def _impossible(config: Config, names: Collection[str]) -> Iterator[Problem]:
    """What backends of these pools ask for that the kernel, which forwards for a listener, cannot do."""
    for path, message in kernel_backend_conflicts(config, names):
        yield config.problem(path, f"{message} ({_WITH})")


@dataclass(frozen=True, slots=True)
class Desired:
    """`base` is `file` with what was `discovered`, `config` that with `overlay` applied; its listeners accept unless
    they are `drained`, and those clients who are not banned. Immutable: each change makes a new one."""

    file: Config
    overlay: Overlay
    config: Config
    drained: Drained = field(default_factory=dict)
    bans: Bans = field(default_factory=Bans)
    discovered: Discovered = field(default_factory=dict)
    base: Config = field(kw_only=True)

    @classmethod
    def of(
        cls,
        file: Config,
        overlay: Overlay | None = None,
        drained: Drained | None = None,
        bans: Bans | None = None,
        discovered: Discovered | None = None,
    ) -> Self:
        """`file` with what was discovered, and the runtime changes that neither contradicts. ConfigError for
        conflicts."""
        kept_bans = (bans or Bans()).of(file.listeners)
        names = file.listeners.keys() & (drained or {}).keys()
        still = {name: said for name in names if _says_still(file.listeners[name], said := (drained or {})[name])}
        followed = {name for name, pool in file.pools.items() if pool.discovery is not None}
        found = {name: backends for name, backends in (discovered or {}).items() if name in followed}
        base = _with_pools(file, {name: _with_discovered(file.pools[name], one) for name, one in found.items()})
        kept = {
            name: _kept(base.pools[name], one, complete=name not in followed or name in found)
            for name, one in (overlay or {}).items()
            if name in base.pools
        }
        kept = {name: overrides for name, overrides in kept.items() if overrides}
        config = _with_pools(base, {name: _merged(base.pools[name], overrides) for name, overrides in kept.items()})
        changed = [name for name, pool in config.pools.items() if pool is not file.pools[name]]
        if problems := [*_conflicts(config, changed), *_impossible(config, changed)]:
            raise ConfigError(problems)
        return cls(file, kept, config, still, kept_bans, found, base=base)

    def with_lists_read(self) -> Desired:
        """With the listeners' files as they are now; itself when none has changed. ConfigError when one is broken."""
        file = self.file.with_lists_read()
        return self if file is self.file else self.reloaded(file)

    def reloaded(self, file: Config, discovered: Discovered | None = None) -> Desired:
        """With another file; `discovered` is new."""
        return Desired.of(file, self.overlay, self.drained, self.bans, {**self.discovered, **(discovered or {})})

    def with_discovered(self, pool: str, backends: tuple[Backend, ...]) -> Desired:
        """With another answer of that pool's source. ChangeError when it cannot be: it has none any more, or backends
        conflict."""
        if pool not in self.file.pools or self.file.pools[pool].discovery is None:
            raise ChangeError("not_found", "the pool has no discovery any more", f"pools.{pool}")
        found = _with_discovered(self.file.pools[pool], backends)
        desired = replace(
            self,
            discovered={**self.discovered, pool: backends},
            base=_with_pools(self.base, {pool: found}),
        )
        return desired._overlaid(pool, _kept(found, self.overlay.get(pool, {}), complete=True))

    # ---- runtime changes; ChangeError when they are impossible ----

    def find(self, pool: str, backend: str) -> Backend | None:
        """The backend with that id, or else with that address; None when there is none. ChangeError for an unknown
        pool, or for an address that several backends have."""
        backends = self._pool(pool).backends
        found = [one for one in backends if one.key == backend]
        found = found or [one for one in backends if one.address == backend]
        if len(found) > 1:
            ids = ", ".join(one.key for one in found)
            raise ChangeError("conflict", f'several backends have the address "{backend}": expected one of {ids}')
        return found[0] if found else None

    def with_backend(self, pool: str, backend: str, settings: Mapping[str, Any]) -> Desired:
        """Set keys of a backend, or add one at that address."""
        there = self.find(pool, backend)
        if there is not None:
            return self._changed(pool, there, settings)
        entry = self._removed_entry(pool, backend, str(settings.get("id", "")))
        if entry is not None:  # it comes back as in the file
            return self._with(pool, entry.key, None)._changed(pool, entry, settings)
        if settings.get("address", backend) != backend:
            raise ChangeError("conflict", "a backend is added by its address", self._path(pool, backend, "address"))
        added = self._build(pool, backend, {**settings, "address": backend})
        if (other := self.find(pool, added.key)) is not None:
            message = f'"{added.key}" is the backend at {other.address}'
            raise ChangeError("conflict", message, self._path(pool, backend, "id"))
        return self._with(pool, added.key, Override(_said(added)))

    def without_backend(self, pool: str, backend: str) -> Desired:
        """Remove it. ChangeError for an unknown backend."""
        there = self.find(pool, backend)
        if there is None:
            raise ChangeError("not_found", f'no backend "{backend}" in pool "{pool}"', self._path(pool, backend))
        entry = self._file_entry(pool, there.key)
        return self._with(pool, there.key, Override(file=_said(entry), removed=True) if entry else None)

    def with_drained(self, listener: str, *, drained: bool = True) -> Desired:
        """Make the listener stop accepting or, when not `drained`, accept again."""
        if listener not in self.config.listeners:
            raise ChangeError("not_found", f'no listener "{listener}"', "listener")
        others = {name: said for name, said in self.drained.items() if name != listener}
        said = _said(self.file.listeners[listener])
        return replace(self, drained={**others, listener: said} if drained else others)

    def _changed(self, pool: str, there: Backend, settings: Mapping[str, Any]) -> Desired:
        for key in _IDENTITY:
            if settings.get(key, getattr(there, key)) != getattr(there, key):
                message = "cannot change: it is what the backend is known by; remove this one and add another"
                raise ChangeError("conflict", message, self._path(pool, there.key, key))
        said = _said(self._build(pool, there.key, _said(there) | dict(settings)))
        entry = self._file_entry(pool, there.key)
        if entry is None:
            return self._with(pool, there.key, Override(said))
        before = self.overlay.get(pool, {}).get(there.key, Override())
        wanted = {**before.settings, **{key: said[key] for key in settings if key not in _IDENTITY}}
        file = _said(entry)
        wanted = {key: value for key, value in wanted.items() if value != file[key]}
        known = {key: file[key] for key in wanted}
        return self._with(pool, there.key, Override(wanted, known) if wanted else None)

    def _pool(self, pool: str) -> Pool:
        try:
            return self.config.pools[pool]
        except KeyError:
            raise ChangeError("not_found", f'no pool "{pool}"', "pool") from None

    def _file_entry(self, pool: str, key: str) -> Backend | None:
        return next((entry for entry in self.base.pools[pool].backends if entry.key == key), None)

    def _removed_entry(self, pool: str, backend: str, id_: str) -> Backend | None:
        """The file's entry that was removed at runtime and has this key or address, or this id."""
        removed = {key for key, one in self.overlay.get(pool, {}).items() if one.removed}
        entries = [entry for entry in self.base.pools[pool].backends if entry.key in removed]
        for entry in entries:
            if backend in (entry.key, entry.address):
                return entry
        if any(entry.key == id_ for entry in entries):
            message = f'"{id_}" is another backend of the file, removed at runtime'
            raise ChangeError("conflict", message, self._path(pool, backend, "id"))
        return None

    def _path(self, pool: str, backend: str, *key: str) -> str:
        return ".".join(["pools", pool, f"backends[{backend}]", *key])

    def _build(self, pool: str, backend: str, settings: Mapping[str, Any]) -> Backend:
        try:
            return build_backend(settings, ("pools", pool, "backends", 0))
        except ConfigError as error:
            first, *_ = error.problems
            place = first.path.replace(path_text(("pools", pool, "backends", 0)), self._path(pool, backend), 1)
            raise ChangeError("invalid", first.message, place) from None

    def _with(self, pool: str, key: str, override: Override | None) -> Desired:
        """With `override` for the backend in place of the old one. Checks this pool alone."""
        overrides = {name: one for name, one in self.overlay.get(pool, {}).items() if name != key or override}
        if override is not None:
            overrides[key] = override
        return self._overlaid(pool, overrides)

    def _overlaid(self, pool: str, overrides: Overrides) -> Desired:
        overlay = {name: one for name, one in self.overlay.items() if name != pool or overrides}
        if overrides:
            overlay[pool] = overrides
        config = _with_pools(self.config, {pool: _merged(self.base.pools[pool], overrides)})
        if problems := list(_conflicts(config, [pool], self.config)):
            raise ChangeError("conflict", problems[0].message, problems[0].path)
        if problems := list(_impossible(config, [pool])):
            raise ChangeError("invalid", problems[0].message, problems[0].path)
        return replace(self, overlay=overlay, config=config)
