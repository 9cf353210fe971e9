from __future__ import annotations

from l4lb.config.options.policies import policy_names
from l4lb.model.snapshot import Selection
from l4lb.routing.policies import POLICIES, Candidate, Candidates
from tests.support.tables import PythonTables

BACKENDS = (Candidate("a", 1.0, 2), Candidate("b", 2.0, 0), Candidate("c", 2.5, 1))
CANDIDATES = Candidates(BACKENDS, table_size=13, hash_seed=4)


def test_the_config_offers_what_is_registered() -> None:
    assert policy_names()[: len(POLICIES)] == list(POLICIES)


def test_each_table_indexes_the_candidates() -> None:
    for policy in POLICIES.values():
        slots = policy.build(CANDIDATES, PythonTables())
        assert set(slots) <= {0, 1, 2}
        assert bool(slots) == (policy.selection is not Selection.LEAST_SESSIONS)


def test_a_cycle_goes_by_parts_of_a_weight_too() -> None:
    slots = POLICIES["round_robin"].build(CANDIDATES, PythonTables())
    assert [slots.count(index) for index in range(3)] == [2, 4, 5]


def test_first_is_as_configured() -> None:
    assert list(POLICIES["first"].build(CANDIDATES, PythonTables())) == [1, 2, 0]
