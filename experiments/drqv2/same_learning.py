"""Experiment: with one seed, the agent learns the same bits from a store of any mode.

    python -m experiments.drqv2.same_learning [episodes=DIR] [updates=300]

For each mode, `ReplayBufferStorage` writes recorded episodes into a store, and an agent with the same seed learns from
`make_replay_loader`. The experiment compares all losses. After the last update it compares all parameters and the state
of the optimisers. A control with another seed must differ. It runs on the CPU with deterministic operations.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

from replaystore.errors import ReplayStoreError, SpecError
from replaystore.runtime.extras import needs
from replaystore.spec import MODES

with needs("experiments.drqv2.same_learning", "bench", "dmc", "drqv2", in_command=__name__ == "__main__"):
    import torch

    from drqv2_patch import ReplayBufferStorage, make_replay_loader
    from experiments.drqv2 import results
    from experiments.drqv2.agent import Agent, AgentConfig
    from experiments.drqv2.commands import run
    from experiments.drqv2.recordings import Recording, play

_LOSSES = ("critic_loss", "actor_loss")
_CONTROL_UPDATES = 3


class LearningDiffers(ReplayStoreError):
    """Two modes did not learn the same."""


@dataclass(frozen=True, kw_only=True)
class SameLearningConfig:
    """What is compared.

    Attributes:
        episodes: directory of episode files with uint8 images.
        modes: modes of the stores.
        updates: number of updates.
        batch_size, n_step, discount, seed: as in training.
        replay_threads: threads that fill batches.
        torch_threads: threads that compute.
        output_dir: directory for stores and results.
        docs: page to write the results into, or None.
        agent: networks and optimisers.
    """

    episodes: str
    modes: tuple[str, ...]
    updates: int
    batch_size: int
    n_step: int
    discount: float
    seed: int
    replay_threads: int
    torch_threads: int
    output_dir: str
    docs: str | None
    agent: AgentConfig


@dataclass(frozen=True, kw_only=True)
class Learned:
    """What the agent learned in a mode.

    Attributes:
        losses: losses of each update, (critic, actor).
        digest: SHA-256 over all parameters and the state of the optimisers.
        batches: SHA-256 over all batches.
        parameters: number of parameters.
        store_bytes: bytes of the store on disk.
        seconds: seconds that the updates took.
    """

    mode: str
    losses: list[tuple[float, float]]
    digest: str
    batches: str
    parameters: int
    store_bytes: int
    seconds: float


def digest_of(state: Any) -> str:
    """Returns the SHA-256 over the names, shapes and bytes of all tensors and numbers in nested dicts and lists."""
    digest = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, Mapping):
            for key in value:
                digest.update(f"{key}:".encode())
                add(value[key])
        elif isinstance(value, (list, tuple)):
            for entry in value:
                add(entry)
        elif isinstance(value, torch.Tensor):
            digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
        else:
            digest.update(repr(value).encode())

    add(state)
    return digest.hexdigest()


def learn(config: SameLearningConfig, mode: str, work_dir: Path) -> Learned:
    """Fills a store of that mode and learns from it. It changes settings of torch for the whole process."""
    recording = Recording.find(config.episodes)
    shutil.rmtree(work_dir, ignore_errors=True)

    def storage_of() -> ReplayBufferStorage:
        return ReplayBufferStorage(recording.specs, work_dir, mode=cast(Any, mode), frame_stack=recording.frame_stack)

    with storage_of() as storage:
        for arrays in recording.episodes():
            play(storage, arrays)
    with storage_of() as storage:  # opening it again seals every row into a chunk of its mode
        assert storage.store is not None
        store_bytes = int(storage.store.info()["bytes_on_disk"])
        torch.manual_seed(config.seed)
        agent = Agent(config.agent, recording.image_shape, recording.num_actions)
        losses, batches = [], hashlib.sha256()
        started = time.perf_counter()
        with make_replay_loader(
            work_dir, max(len(storage), 1), config.batch_size, config.replay_threads, True, config.n_step,
            config.discount, cast(Any, mode), config.seed,
        ) as loader:  # fmt: skip
            for number in range(config.updates):
                batch = next(loader)
                for part in batch:
                    batches.update(part.numpy().tobytes())
                metrics = agent.update(batch, step=10_000 + number)
                losses.append((float(metrics["critic_loss"]), float(metrics["actor_loss"])))
    state = agent.state_dict()
    return Learned(
        mode=mode,
        losses=losses,
        digest=digest_of(state),
        batches=batches.hexdigest(),
        parameters=sum(each.numel() for part in state["networks"].values() for each in part.values()),
        store_bytes=store_bytes,
        seconds=time.perf_counter() - started,
    )


def compare(learned: list[Learned], control: Learned) -> None:
    """Raises `LearningDiffers` unless all modes learned the same and the control did not."""
    first = learned[0]
    for other in learned[1:]:
        for number, (expected, found) in enumerate(zip(first.losses, other.losses, strict=True)):
            if expected != found:
                raise LearningDiffers(
                    f"update {number + 1}: expected the losses of {first.mode} {expected}, found {found} in"
                    f" {other.mode}; the batches {'agree' if first.batches == other.batches else 'differ'}"
                )
        if (first.digest, first.batches) != (other.digest, other.batches):
            raise LearningDiffers(f"expected the parameters of {first.mode}, found others in {other.mode}")
    if control.losses == first.losses[: len(control.losses)]:
        raise LearningDiffers("expected another seed to learn otherwise, found the same losses: the comparison is void")


def same_learning(config: SameLearningConfig) -> dict[str, Any]:
    """Compares the modes and returns the result.

    Raises:
        LearningDiffers: two modes did not learn the same.
        SpecError: a value cannot work.
    """
    if not config.modes or set(config.modes) - set(MODES):
        raise SpecError(f"modes: expected some of {', '.join(MODES)}, got {list(config.modes)}")
    if config.updates < 1:
        raise SpecError(f"updates: expected at least 1, got {config.updates}")
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(config.torch_threads)
    torch.use_deterministic_algorithms(True)
    try:
        work_dir = Path(config.output_dir) / "stores"
        learned = [learn(config, mode, work_dir / mode) for mode in config.modes]
        other = replace(config, seed=config.seed + 1, updates=min(_CONTROL_UPDATES, config.updates))
        control = learn(other, config.modes[0], work_dir / "control")
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])
    compare(learned, control)
    return {
        "config": asdict(config),
        "conditions": results.stated_conditions(Path(config.output_dir)),
        "modes": [asdict(entry) for entry in learned],
        "control": asdict(control),
    }


def to_lines(result: Mapping[str, Any]) -> list[str]:
    """Returns the result as Markdown."""
    config, modes = result["config"], result["modes"]
    rows = [
        {
            "mode": entry["mode"],
            "store, bytes": f"{entry['store_bytes']:,}",
            "first critic loss": float(entry["losses"][0][0]).hex(),
            "last critic loss": float(entry["losses"][-1][0]).hex(),
            "last actor loss": float(entry["losses"][-1][1]).hex(),
            "SHA-256 of parameters and optimisers": f"`{entry['digest'][:16]}`",
            "SHA-256 of batches": f"`{entry['batches'][:16]}`",
        }
        for entry in modes
    ]
    text = ("mode", "first critic loss", "last critic loss", "last actor loss",
            "SHA-256 of parameters and optimisers", "SHA-256 of batches")  # fmt: skip
    return [
        f"{config['updates']} updates with batches of {config['batch_size']} and seed {config['seed']},"
        f" {modes[0]['parameters']:,} parameters, targets included: all {2 * config['updates']} losses and all"
        " parameters are the same, bit for bit. Floats in hexadecimal; of digests the first 16 digits.",
        "",
        *results.table(rows, text),
        "",
        f"The control, seed {config['seed'] + 1}, has another first critic loss:"
        f" {float(result['control']['losses'][0][0]).hex()}.",
        "",
        results.condition_line(result["conditions"]),
    ]


def main(config: SameLearningConfig) -> None:
    """Compares, prints and writes."""
    result = same_learning(config)
    lines = to_lines(result)
    figure, axes = results.new_axes()
    for number, entry in enumerate(result["modes"]):
        axes.plot(
            range(1, config.updates + 1),
            [critic for critic, _ in entry["losses"]],
            color=results.COLOURS[number % len(results.COLOURS)],
            linewidth=5 - 2 * number,
            label=entry["mode"],
        )
    axes.set_xlabel("update")
    axes.set_ylabel("critic loss")
    axes.set_title("Drawn over each other, the widest line first", loc="left", fontsize=10)
    axes.legend()
    results.save_result("same_learning", Path(config.output_dir), result, lines, figure, config.docs)
    print("\n".join(lines))


if __name__ == "__main__":
    run("same_learning", SameLearningConfig, main)
