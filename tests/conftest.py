import sys
from pathlib import Path

from hypothesis import settings

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # `import live_rows`
sys.path.append(str(HERE.parent))  # spawned processes import test modules by the names that pytest gives them

settings.register_profile("replaystore", deadline=None)  # the first call of a kernel compiles it
settings.load_profile("replaystore")
