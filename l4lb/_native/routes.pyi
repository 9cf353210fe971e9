from typing import Self, final

from l4lb._native.specs import Route

@final
class AddressRanges:
    bounds: bytes
    def __new__(cls, bounds: bytes) -> Self: ...

@final
class Routes:
    def __new__(cls, routes: list[Route]) -> Self: ...
    def find(self, source: bytes, first: bytes, complete: bool) -> tuple[int, int]: ...
