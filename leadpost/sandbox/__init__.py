"""
A strict stand-in for LeadSquared's Async API: a real server on this machine.

    with Sandbox(limit=25, period=5.0, seed=1) as sandbox:
        account = sandbox.account()
        ...  # post to it as to LeadSquared
        print(sandbox.report())
"""

from leadpost.sandbox.answers import Answer
from leadpost.sandbox.faults import Faults
from leadpost.sandbox.queue import Accepted, request_id_of
from leadpost.sandbox.sandbox import Report, Sandbox

__all__ = ["Accepted", "Answer", "Faults", "Report", "Sandbox", "request_id_of"]

for _name in __all__:
    globals()[_name].__module__ = __name__
