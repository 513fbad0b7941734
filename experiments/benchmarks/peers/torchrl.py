"""torchrl's `TensorDictReplayBuffer` over memory-mapped files."""

from __future__ import annotations

import tempfile
from pathlib import Path

from experiments.benchmarks.peers.data import PeerData
from experiments.benchmarks.peers.peer import Batch, Candidate, Peer, imported


class LazyMemmap(Peer):
    """`TensorDictReplayBuffer(storage=LazyMemmapStorage(...))`, filled with assembled transitions."""

    def __init__(self, data: PeerData) -> None:
        tensordict, torchrl = imported("tensordict"), imported("torchrl.data")
        count = sum(len(part["reward"]) for part in data.n_step_transitions())
        notes = (
            ("n-step transitions are assembled before they are added, as in its MultiStep",) if data.n_step > 1 else ()
        )
        super().__init__(num_transitions=count, n_step=data.n_step, notes=notes)
        self._directory = Path(tempfile.mkdtemp(prefix="torchrl-", dir=data.scratch))
        storage = torchrl.LazyMemmapStorage(count, scratch_dir=str(self._directory))
        self._buffer = torchrl.TensorDictReplayBuffer(storage=storage, batch_size=data.batch_size)
        for part in data.n_step_transitions():
            following = {
                "observation": part["next_observation"],
                "reward": part["reward"][:, None],
                "done": part["last"][:, None],
                "terminated": part["terminated"][:, None],
            }
            self._buffer.extend(
                tensordict.TensorDict(
                    {
                        "observation": part["observation"],
                        "action": part["action"],
                        "discount": part["discount"][:, None],
                        "next": following,
                    },
                    batch_size=[len(part["reward"])],
                )
            )

    def turn(self) -> Batch:
        """Draws a batch."""
        sample = self._buffer.sample()
        return {
            "observation": sample["observation"],
            "next_observation": sample["next", "observation"],
            "action": sample["action"],
            "reward": sample["next", "reward"],
            "discount": sample["discount"],
        }

    def held_bytes(self) -> int:
        """Returns the bytes of its files."""
        return sum(path.stat().st_size for path in self._directory.rglob("*.memmap"))


def candidates() -> list[Candidate]:
    """Returns the candidates."""
    return [Candidate("torchrl LazyMemmapStorage", "torchrl", LazyMemmap)]
