"""Programs in classic BPF for sockets (linux/filter.h), as data: which packets a listening socket takes. Pure.

A filter of a TCP socket sees the packet from the TCP header on; loads at negative offsets reach the IP header. What it
drops was never there: a client whose SYN is dropped hears nothing, and costs no more than a run of the program.
"""

from __future__ import annotations

from collections.abc import Sequence

from l4lb.net.access import V4_FIRST, V4_LAST

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, constant: as in struct sock_filter

INSTRUCTIONS_MAX = 4096  # BPF_MAXINSNS
_NETWORK_HEADER = 0xFFF00000  # SKF_NET_OFF
_LOAD_WORD, _LOAD_BYTE, _LOAD_SCRATCH, _STORE_SCRATCH = 0x20, 0x30, 0x60, 0x02
_SHIFT_RIGHT, _JUMP, _IF_EQUAL, _IF_ABOVE, _IF_AT_LEAST, _IF_SET, _RETURN = 0x74, 0x05, 0x15, 0x25, 0x35, 0x45, 0x06
_TAKE: Instruction = (_RETURN, 0, 0, 0xFFFFFFFF)
_DROP: Instruction = (_RETURN, 0, 0, 0)
_WORDS = 4  # of an IPv6 address

# Load the flags of the TCP header; drop the packet if SYN is among them.
DROP_SYN: Sequence[Instruction] = ((_LOAD_BYTE, 0, 0, 13), (_IF_SET, 0, 1, 0x02), _DROP, _TAKE)

DROP_ALL: Sequence[Instruction] = (_DROP,)


class TooLong(ValueError):
    """More instructions than a filter may have."""


def drop_from(ranges: bytes) -> list[Instruction]:
    """Drops packets from the addresses in `ranges`, which are as `l4lb.net.access` makes them. TooLong for about 800
    ranges of IPv4, or 300 of IPv6, and more."""
    if len(ranges) // 32 > INSTRUCTIONS_MAX:
        raise TooLong
    bounds = [int.from_bytes(ranges[at : at + 16], "big") for at in range(0, len(ranges), 16)]
    pairs = list(zip(bounds[::2], bounds[1::2], strict=True))
    v4 = [(max(one, V4_FIRST), min(two, V4_LAST)) for one, two in pairs if one <= V4_LAST and two >= V4_FIRST]
    of_v4 = [
        (_LOAD_WORD, 0, 0, _NETWORK_HEADER + 12),
        *_search([(one & 0xFFFFFFFF, two & 0xFFFFFFFF) for one, two in v4]),
    ]
    of_v6: list[Instruction] = []
    for word in range(_WORDS):
        of_v6 += [(_LOAD_WORD, 0, 0, _NETWORK_HEADER + 8 + 4 * word), (_STORE_SCRATCH, 0, 0, word)]
    of_v6 += _search_v6([(one, two) for one, two in pairs if one < V4_FIRST or two > V4_LAST])
    version = [(_LOAD_BYTE, 0, 0, _NETWORK_HEADER), (_SHIFT_RIGHT, 0, 0, 4), (_IF_EQUAL, 0, 1, 6), _jump(len(of_v4))]
    program = [*version, *of_v4, *of_v6]
    if len(program) > INSTRUCTIONS_MAX:
        raise TooLong
    return program


def _jump(over: int) -> Instruction:
    return (_JUMP, 0, 0, over)


def _search(ranges: Sequence[tuple[int, int]]) -> list[Instruction]:
    """By bisection: drop if the accumulator is in one of the ranges. Conditional jumps reach 255 instructions only."""
    if not ranges:
        return [_TAKE]
    middle = len(ranges) // 2
    below, above = _search(ranges[:middle]), _search(ranges[middle + 1 :])
    first, last = ranges[middle]
    node = [(_IF_AT_LEAST, 1, 0, first), _jump(2 + len(above)), (_IF_ABOVE, 1, 0, last), _DROP]
    return [*node, *above, *below]


def _search_v6(ranges: Sequence[tuple[int, int]]) -> list[Instruction]:
    """The same for the address in the scratch memory."""
    if not ranges:
        return [_TAKE]
    middle = len(ranges) // 2
    below, above = _search_v6(ranges[:middle]), _search_v6(ranges[middle + 1 :])
    first, last = (_words(one) for one in ranges[middle])
    in_range = [*_compared(last, 0xFFFFFFFF, _IF_ABOVE), _DROP]
    return [*_compared(first, 0, _IF_AT_LEAST), _jump(len(in_range) + len(above)), *in_range, *above, *below]


def _words(address: int) -> list[int]:
    return [address >> shift & 0xFFFFFFFF for shift in (96, 64, 32, 0)]


def _compared(words: list[int], rest: int, last_test: int) -> list[Instruction]:
    """Skip one instruction if the address is above `words`, or (for `_IF_AT_LEAST`) equal to them. Words behind which
    all are `rest`, the least or the greatest there is, decide: they are the last that are looked at."""
    count = _WORDS
    while count > 1 and words[count - 1] == rest:
        count -= 1
    program: list[Instruction] = []
    for position in range(count - 1):
        left = 3 * (count - 2 - position) + 2  # instructions behind these three
        program += [
            (_LOAD_SCRATCH, 0, 0, position),
            (_IF_ABOVE, left + 2, 0, words[position]),
            (_IF_EQUAL, 0, left, words[position]),
        ]
    return [*program, (_LOAD_SCRATCH, 0, 0, count - 1), (last_test, 1, 0, words[count - 1])]
