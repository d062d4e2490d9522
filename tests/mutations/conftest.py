import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))  # for the list, which `run.py` reads too
