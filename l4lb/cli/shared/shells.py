"""The scripts by which shells complete `l4lb`, and the other end of bash's.

They are click's, but for bash. bash takes a word apart at each ":" and "=" (COMP_WORDBREAKS), so that an address would
be three arguments: its line is split here instead, and each answer leaves out the part of the word that bash keeps.
"""

from __future__ import annotations

import os

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    get_completion_class,
    split_arg_string,
)

SHELLS = ("bash", "zsh", "fish")

_BASH = """\
%(complete_func)s() {
    local response type value

    response=$(env COMP_LINE="${COMP_LINE:0:COMP_POINT}" COMP_WORD="$2" %(complete_var)s=bash_complete "$1")

    COMPREPLY=()
    while IFS=, read -r type value; do
        if [[ $type == dir ]]; then
            compopt -o dirnames
        elif [[ $type == file ]]; then
            compopt -o default
        elif [[ $type == plain ]]; then
            COMPREPLY+=("$value")
        fi
    done <<< "$response"
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""


class Bash(BashComplete):
    """`COMP_LINE` is the line up to the cursor; `COMP_WORD` the part of its last word that an answer replaces. A shell
    that has click's own script passes neither."""

    name = "bash"
    source_template = _BASH

    def get_completion_args(self) -> tuple[list[str], str]:
        if "COMP_LINE" not in os.environ:
            return super().get_completion_args()
        *words, last = split_arg_string(os.environ["COMP_LINE"] + "\0")  # the cursor: it also makes an empty word one
        return words[1:], last.removesuffix("\0")

    def format_completion(self, item: CompletionItem) -> str:
        typed = self.get_completion_args()[1]
        replaced = os.environ.get("COMP_WORD", typed)
        value = typed.partition("=")[2] if typed.startswith("--") and "=" in typed else typed  # of --option=value
        kept = len(value) - len(replaced)
        return f"{item.type},{item.value[kept:] if kept >= 0 else replaced[:-kept] + item.value}"


def script(shell: str, command: click.Command) -> str:
    """For one of SHELLS; `command` is the whole of l4lb, whose module registers `Bash`."""
    found = get_completion_class(shell)
    assert found is not None
    return found(command, {}, "l4lb", "_L4LB_COMPLETE").source()
