"""Makes the world's hosts, and the name server of the drivers' tests, importable to the tests beside them."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent / "drivers")]
