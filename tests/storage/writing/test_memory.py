import subprocess
import sys

RECORD = """
import sys
import numpy as np
from replaystore import FieldSpec, ReplayStore

def megabytes(name):
    return next(int(line.split()[1]) // 1024 for line in open("/proc/self/status") if line.startswith(name + ":"))

def record(path, shape, episodes):
    fields = [
        FieldSpec.image("camera", shape, channels="last"),
        FieldSpec(name="reward", shape=(1,), dtype="float32", role="reward"),
    ]
    frame = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
    with ReplayStore.create(path, fields) as store:
        for _ in range(episodes):
            for row in range(100):
                frame[row : row + 40] += 1
                store.add({"camera": frame, "reward": 0.0 if row == 0 else 1.0}, last=row == 99)
        store.flush()
        assert store.num_episodes == episodes

record(sys.argv[1] + "/small", (48, 64, 3), 12)  # what is loaded and compiled at first use does not count
before = megabytes("VmRSS")
record(sys.argv[1] + "/large", (480, 640, 3), 5)
print(megabytes("VmHWM") - before)
"""


def test_large_frames_take_little_memory_beside_their_episode(tmp_path):
    """640 x 480 RGB: an episode is 88 MiB, a chunk of it 28 MiB."""
    run = subprocess.run([sys.executable, "-c", RECORD, str(tmp_path)], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 88 + 256
