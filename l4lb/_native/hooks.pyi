from typing import final

ASKS_MAX: int
ANSWERS_MAX: int

@final
class Ask:
    worker: int
    index: int
    generation: int
    session_id: int
    listener_id: int
    pool_slot: int
    client: bytes
    client_port: int
    local: bytes
    local_port: int
    sni: bytes

@final
class Hooks:
    @property
    def fd(self) -> int: ...
    def open(self) -> None: ...
    def close(self) -> None: ...
    def take(self, limit: int) -> list[Ask]: ...
    def answer(self, ask: Ask, result: int, target: int, tagged: bool) -> bool: ...
    def dropped(self) -> int: ...
