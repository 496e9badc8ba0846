import sys
from pathlib import Path

# The scripts import their neighbours by plain names, as they do when run from the command line.
sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
