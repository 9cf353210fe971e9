"""What programs of users look like to a type checker: `make lint` checks it strictly, and nobody runs it."""

from __future__ import annotations

from l4lb import (
    AdminState,
    Backend,
    Client,
    Config,
    Event,
    Health,
    L4lbError,
    Listener,
    LoadBalancer,
    Pool,
    UnknownNameError,
)


def build() -> Config:
    backends = [Backend(address="10.0.0.1:8443", weight=2), Backend(address="10.0.0.2:8443")]
    return Config(
        listeners={"web": Listener(bind=["0.0.0.0:443"], pool="web", idle_timeout=300.0)},
        pools={"web": Pool(backends=backends, policy="least_sessions")},
    )


def here(config: Config) -> int:
    with LoadBalancer(config) as lb:
        backend = lb.pools["web"]["10.0.0.1:8443"]
        if backend.health is Health.UP and backend.admin_state is AdminState.READY:
            backend.drain(wait=True, timeout=30)
        seen: list[str] = [one["id"] for one in lb.status()["pools"][0]["backends"]]
        return lb.stats().pools["web"].sessions_active + len(seen)


def there(address: str) -> dict[str, float]:
    with Client(address) as client:
        status = client.status()
        idle = {session["id"]: session["idle_s"] for session in client.sessions(pool="web", limit=10)}
        chosen: str | None = client.pools["web"].explain("192.0.2.1")["chosen"]
        until: float | None = client.bans.add("192.0.2.0/24", for_s=3600.0)["until"]
        return {**idle, status["version"]: status["uptime_s"], str(chosen): until or 0.0}


def follow(lb: LoadBalancer | Client) -> Event | None:
    with lb.events(level="warning", pool="web") as events:
        for event in events:
            if event.kind == "backend_down":
                return event
    return None


async def asynchronous(config: Config) -> list[str]:
    async with LoadBalancer(config) as lb:
        await lb.areload(config)
        names = [name async for name in lb.pools["web"]]
        async with lb.aevents() as events:
            async for event in events:
                return [event.kind, event.message, *names]
    async with Client("127.0.0.1:9900") as client:
        return [name for name, pool in (await client.apools()).items() if (await pool.astats()).sessions_active]


def errors(lb: LoadBalancer) -> str:
    try:
        lb.pools["nosuch"].remove("10.0.0.1:8443", drain=5.0)
    except UnknownNameError as error:
        return f"{error.kind} {error.name}"
    except L4lbError as error:
        return str(error)
    return build().dumps()
