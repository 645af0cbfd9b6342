"""What holds for every test."""

import os

# No test waits for a network. The libraries read it once, at their import; `-m reproduce` with data sets from the Hub
# needs HF_HUB_OFFLINE=0.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Tiny networks are slower on many threads than on one, above all when something else runs beside the tests.
os.environ.setdefault("OMP_NUM_THREADS", "1")
