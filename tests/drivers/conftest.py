"""What holds for every test of the drivers.

What lives here: passing over the drivers whose event loop is not installed. What does not: the table of drivers.
"""

import importlib.util

import pytest


@pytest.fixture(autouse=True)
def _only_on_loops_that_are_there(request: pytest.FixtureRequest) -> None:
    parameters = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    loop = getattr(parameters.get("driver", parameters.get("kind")), "loop", "")
    if loop and importlib.util.find_spec(loop) is None:
        pytest.skip(f"{loop} is not installed")
