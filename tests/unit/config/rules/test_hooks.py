"""What must hold between [hooks] and the listeners."""

from __future__ import annotations

import pytest

from l4lb import Config, ConfigError

TCP = '[listeners.web]\nbind = ":9"\npool = "p"\n'
UDP = '[listeners.dns]\nbind = ":9"\npool = "p"\nprotocol = "udp"\n'
KERNEL = '[listeners.fast]\nbind = "127.0.0.1:10"\npool = "p"\nengine = "kernel"\n'
POOL = '[pools.p]\nbackends = ["127.0.0.1:1"]\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TCP + '[hooks]\ndeadline = "1s"', "hooks.deadline: has no effect without module"),
        (TCP + '[hooks]\nmodule = "m"\ndeadline = "2m"', "hooks.deadline: expected 1ms to 60s"),
        (TCP + '[hooks]\nmodule = "m"\non_error = "ignore"', "hooks.on_error: "),
        (TCP + '[hooks]\nmodule = "m"\nlisteners = ["wbe"]', 'no such listener (did you mean "web"?)'),
        (KERNEL + '[hooks]\nmodule = "m"', "hooks.module: no listener can have a hook"),
        (KERNEL + TCP + '[hooks]\nmodule = "m"\nlisteners = ["fast"]', 'engine = "kernel" can have no hook'),
    ],
)
def test_what_cannot_work_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        Config.loads(text + "\n" + POOL)
    assert any(message in str(problem) for problem in raised.value.problems), raised.value.problems


def test_a_listener_that_cannot_have_a_hook_is_left_out() -> None:
    """Whether one of UDP can, is seen when the module is loaded."""
    config = Config.loads(TCP + UDP + '[hooks]\nmodule = "m"\n' + POOL)
    assert (config.hooks.deadline, config.hooks.on_error, config.hooks.listeners) == (0.05, "accept", [])
