"""How many examples are drawn: a few in an ordinary run, many and new ones by ``make fuzz``."""

import os

from hypothesis import HealthCheck, settings

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))

settings.register_profile(
    "fuzz",
    max_examples=EXAMPLES or 40,
    derandomize=EXAMPLES == 0,
    deadline=None,
    suppress_health_check=[*HealthCheck],
)
