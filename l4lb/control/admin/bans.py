"""The routes of bans: their parameters, bodies and handlers. Control loop only."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from l4lb.config.options.base import Line
from l4lb.config.options.units import LongDuration
from l4lb.control.admin.calls import Answer, Api, Call, Query
from l4lb.control.reporting import shapes
from l4lb.model.bans import REASON_MAX


class ListQuery(Query):
    source: str = Field(default="", description="those that concern this address or network")
    listener: str = Field(default="", description="those that this listener carries out")


class OneQuery(Query):
    listener: str = Field(default="", description="the ban of this listener alone")


class BanRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")
    for_: LongDuration | None = Field(default=None, alias="for", description="how long; by default until it is removed")
    listener: str = Field(default="", description="at this listener alone; by default at all of them")
    reason: Line = Field(default="", max_length=REASON_MAX, description="for who reads the list or the log")


async def list_bans(api: Api, call: Call) -> list[shapes.Ban]:
    return await api.verbs.banning.list(call.query.source, call.query.listener)


async def show_ban(api: Api, call: Call) -> shapes.Ban:
    return api.verbs.banning.show(call.path["cidr"], call.query.listener)


async def put_ban(api: Api, call: Call) -> Answer[shapes.Banned]:
    asked = call.body
    ban, added = await api.verbs.banning.add(call.path["cidr"], asked.listener, asked.for_, asked.reason)
    return Answer(ban, 201 if added else 200)


async def remove_ban(api: Api, call: Call) -> shapes.Ban:
    return await api.verbs.banning.remove(call.path["cidr"], call.query.listener)
