"""The routes that change something: their parameters, bodies and handlers. Control loop only.

Each answers once workers use the change; a ChangeError becomes the request's error.
"""

from __future__ import annotations

from typing import cast

from pydantic import BaseModel, ConfigDict, Field

from l4lb.config import Backend
from l4lb.config.options.units import DurationOrZero
from l4lb.control.admin.calls import Answer, Api, Call, Query
from l4lb.control.reporting import shapes


class BackendSettings(Backend):
    """Any configuration keys of a backend. Omitted keys stay as they are; a new backend gets their defaults."""

    address: str = Field(default="", description="as in the path, when it is given")


class RemoveQuery(Query):
    drain: DurationOrZero | None = Field(
        default=None, description="how long its sessions may go on; by default as on_backend_removed says"
    )


class DrainRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")
    listener: str = Field(default="", description="this one alone; by default the whole process, which then exits")
    timeout: DurationOrZero | None = Field(
        default=None, description="how long sessions may go on; by default drain_timeout"
    )
    wait: bool = Field(default=False, description="answer when it is over")


class ResumeQuery(Query):
    listener: str = Field(description="name of a listener that drains", min_length=1)


async def put_backend(api: Api, call: Call) -> Answer[shapes.Backend]:
    settings = call.body.model_dump(mode="json", exclude_unset=True)
    backend, added = await api.verbs.put_backend(call.path["pool"], call.path["address"], settings)
    return Answer(backend, 201 if added else 200)


async def remove_backend(api: Api, call: Call) -> shapes.Removed:
    return await api.verbs.remove_backend(call.path["pool"], call.path["address"], call.query.drain)


async def drain(api: Api, call: Call) -> shapes.Drain:
    draining, asked = api.verbs.draining, call.body
    if asked.listener:
        await draining.begin_listener(asked.listener, asked.timeout)
        if asked.wait:
            await draining.wait_listener(asked.listener)
        return draining.progress(asked.listener)
    if await draining.begin(asked.timeout):
        draining.asked()
    if asked.wait:
        await draining.wait()
    return draining.progress()


async def resume(api: Api, call: Call) -> shapes.Resumed:
    await api.verbs.draining.resume(call.query.listener)
    return {"listener": call.query.listener}


async def reload(api: Api, call: Call) -> shapes.Reloaded:
    changes = await api.verbs.reload()
    return cast("shapes.Reloaded", {**changes.counts(), "needs_restart": list(changes.needs_restart)})


async def upgrade(api: Api, call: Call) -> shapes.Upgraded:
    return {"pid": await api.verbs.upgrade()}
