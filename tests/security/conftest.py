import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# The stage tests' way to look at the site.
os.environ.setdefault("MOLECULE_SCENARIO_NAME", "stage4")
os.environ.setdefault("MOLECULE_PROJECT_DIRECTORY", str(ROOT))
sys.path[:0] = [str(ROOT / "molecule/shared/tests"), str(Path(__file__).parent)]
