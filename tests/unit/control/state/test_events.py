"""Events reach whoever subscribed, on the control loop, whichever thread they are from."""

from __future__ import annotations

import asyncio
import threading

from l4lb.control.state.events import Event, Events, FromThreads


def test_what_another_thread_says_is_heard_on_the_loop_s_own_in_order() -> None:
    heard: list[tuple[object, int]] = []
    events = Events()

    def hear(event: Event) -> None:
        heard.append((event.fields["number"], threading.get_ident()))

    def say(from_threads: FromThreads) -> None:
        for number in range(3):
            from_threads.emit("said", {"number": number})

    async def scenario() -> FromThreads:
        events.subscribe(hear)
        from_threads = FromThreads(events)
        await asyncio.to_thread(say, from_threads)
        await asyncio.sleep(0)
        return from_threads

    from_threads = asyncio.run(scenario())
    assert heard == [(number, threading.get_ident()) for number in range(3)]
    from_threads.emit("said", {"number": 3})  # the loop is closed: nobody is there to hear it
    assert len(heard) == 3
