"""For packages that add a policy, as an entry point in the group ``l4lb.policies``.

`table_policy` and `ranking_policy` make one from a function of plain data: `Candidates` in, indices out.
"""

from l4lb.routing.policies import Candidate, Candidates, Policy, ranking_policy, table_policy

__all__ = ["Candidate", "Candidates", "Policy", "ranking_policy", "table_policy"]
