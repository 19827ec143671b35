"""
A strict stand-in for LeadSquared's Async API: a real server on this machine.

    with Sandbox(limit=25, period=5.0, seed=1) as sandbox:
        account = sandbox.account()
        ...  # post to it as to LeadSquared
        print(sandbox.report())

Needs the extra: pip install 'leadpost[sandbox]'.
"""

from importlib.util import find_spec

if find_spec("starlette") is None or find_spec("uvicorn") is None:
    raise ImportError(
        "leadpost.sandbox needs starlette and uvicorn: pip install 'leadpost[sandbox]'"
    )

from leadpost.sandbox.answers import Answer
from leadpost.sandbox.faults import Faults
from leadpost.sandbox.ledger import Accepted, request_id_of
from leadpost.sandbox.server import Sandbox
from leadpost.sandbox.vendor import Report

__all__ = ["Accepted", "Answer", "Faults", "Report", "Sandbox", "request_id_of"]

for _name in __all__:
    globals()[_name].__module__ = __name__
