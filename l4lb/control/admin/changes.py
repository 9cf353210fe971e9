"""The routes that change something: their parameters, bodies and handlers. Control loop only.

Each answers once workers go by the change; a ChangeError of the verb that is asked for is the request's error.
"""

from __future__ import annotations

from pydantic import Field

from l4lb.config import Backend
from l4lb.config.units import Duration
from l4lb.control import shapes
from l4lb.control.admin.calls import Answer, Api, Call, Query


class BackendSettings(Backend):
    """Any keys that a backend has in the configuration. Those that are not given stay as they are or, of a backend that
    is added, have their defaults."""

    address: str = Field(default="", description="as in the path, when it is given")


class RemoveQuery(Query):
    drain: Duration | None = Field(
        default=None, description="how long its sessions may go on; by default as on_backend_removed says"
    )


async def put_backend(api: Api, call: Call) -> Answer[shapes.Backend]:
    settings = call.body.model_dump(mode="json", exclude_unset=True)
    backend, added = await api.verbs.put_backend(call.path["pool"], call.path["address"], settings)
    return Answer(backend, 201 if added else 200)


async def remove_backend(api: Api, call: Call) -> shapes.Removed:
    return await api.verbs.remove_backend(call.path["pool"], call.path["address"], call.query.drain)
