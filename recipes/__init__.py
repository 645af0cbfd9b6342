"""The recipes as the installed package `hwzoo.recipes`; at the top of the repository they are scripts."""

import sys
from pathlib import Path

# As for `python recipes/NAME.py`: compare_samplers.py imports another.
sys.path.append(str(Path(__file__).parent))
