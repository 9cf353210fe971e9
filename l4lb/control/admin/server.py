"""The admin API's life: its socket, which may need root or come from the process before this one, and the service that
answers there. Control loop only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from l4lb.config import Config
from l4lb.control.process.status import Status
from l4lb.control.reporting.exposition import Metrics
from l4lb.control.state.events import Events
from l4lb.errors import ConfigError
from l4lb.model.tokens import Token, parse_tokens
from l4lb.net.files import read_text
from l4lb.net.listen.admin_socket import AdminSocket, default_admin_address, open_admin_socket
from l4lb.net.privileges import Identity

if TYPE_CHECKING:
    from l4lb.control.admin.calls import Verbs
    from l4lb.control.admin.http import HttpService


class AdminServer:
    """Serves `status` and `verbs` at the address in `config`; `address` is the real one, empty when it is off."""

    def __init__(
        self,
        config: Config,
        status: Status,
        verbs: Verbs,
        events: Events,
        metrics: Metrics,
        given: AdminSocket | None = None,
    ) -> None:
        self.address = ""
        self.service: HttpService | None = None
        self._given = given
        self._config = config
        self._serves = (status, verbs, events, metrics)
        self._socket: AdminSocket | None = None

    def bind(self, owner: Identity | None = None) -> None:
        """Open the socket, whose file will belong to `owner`, read the tokens, and load what serves it: later this
        process may be a user who cannot. ConfigError when the address is taken or the token cannot be read."""
        address = self._config.admin.bind or default_admin_address()
        if address == "off":
            return
        tokens = self._read_tokens()
        try:
            self._socket = self._take_given(address) or open_admin_socket(address, owner)
            self._socket.give(owner)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise self._problem("bind", f'"{address}": cannot listen: {reason}') from error
        from l4lb.control.admin.http import HttpService  # takes a quarter of a start's time

        self.service = HttpService(self._config.admin, tokens, *self._serves)

    def files(self) -> list[str]:
        """The files that are removed at the end."""
        return [str(self._socket.file)] if self._socket is not None and self._socket.file else []

    async def start(self) -> None:
        """Serve on the socket that `bind` opened, if there is one."""
        if self._socket is not None and self.service is not None:
            await self.service.start(self._socket.sock, self._socket.asked_for)
            self.address = self._socket.address

    def _take_given(self, address: str) -> AdminSocket | None:
        """The socket of the previous process, if it has the configured address. The default address always matches: it
        depends on the user, who may have changed."""
        given, self._given = self._given, None
        if given is not None and (given.asked_for == address or not self._config.admin.bind):
            return given
        if given is not None:
            given.close()
        return None

    @property
    def socket(self) -> AdminSocket | None:
        return self._socket

    def claim(self) -> None:
        """The process before this one has left."""
        if self._socket is not None:
            self._socket.claim()

    def stop_accepting(self) -> None:
        """Another process answers from now on; requests that have begun are finished here."""
        if self.service is not None:
            self.service.stop_accepting()

    async def stop(self) -> None:
        if self._given is not None:
            self._given.close()
            self._given = None
        if self.service is not None:
            await self.service.stop()
            self.service = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _problem(self, key: str, message: str) -> ConfigError:
        return ConfigError([self._config.problem(("admin", key), message)])

    def _read_tokens(self) -> list[Token]:
        path = self._config.admin.token_file
        if not path:
            return []
        try:
            tokens = parse_tokens(read_text(path))
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise self._problem("token_file", f'"{path}": cannot be read: {reason}') from error
        except ValueError as error:
            raise self._problem("token_file", f'"{path}": {error}') from error
        if not tokens:
            raise self._problem("token_file", f'"{path}": the file is empty; expected a token')
        return tokens
