"""The routes of the configuration: what is in use, and how the file differs from it. Control loop only."""

from __future__ import annotations

import asyncio
from typing import cast

from l4lb.config import Config
from l4lb.config.comparing import Difference, compare
from l4lb.config.secrets import masked
from l4lb.control.admin.calls import Api, Call
from l4lb.control.admin.errors import Refusal
from l4lb.control.reporting import part_shapes, shapes
from l4lb.errors import ConfigError

SHOWN_MAX = 1000  # differences in one answer


async def in_use(api: Api, call: Call) -> shapes.ConfigShape:
    return api.status.config()


async def file_differences(api: Api, call: Call) -> part_shapes.ConfigDifferences:
    """One reading at a time: that of a large file takes a thread a while."""
    file = api.status.config_file()
    if not file:
        raise Refusal(409, "this process has read no file (that of a fleet is compared by `l4lb fleet config diff`)")
    async with api.reading:
        try:
            found = await _compared(await api.verbs.fleet.read(), api)
        except ConfigError as error:
            return {"file": file, "problems": [str(one) for one in error.problems], "total": 0, "differences": []}
    shown = [cast("part_shapes.ConfigDifference", {"path": one.path_text(), **one.sides()}) for one in found]
    return {"file": file, "problems": [], "total": len(shown), "differences": shown[:SHOWN_MAX]}


async def _compared(wanted: Config, api: Api) -> list[Difference]:
    runs = api.status.config()
    return await asyncio.to_thread(lambda: compare(runs, masked(wanted)))
