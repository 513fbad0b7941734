"""Our own trainer, after DrQ-v2, and the experiments that use it.

The agent is written from the paper, "Mastering Visual Continuous Control: Improved Data-Augmented Reinforcement
Learning" (Yarats et al., 2021). Needs `pip install 'replaystore[bench,dmc,drqv2]'`. Commands, each with `--help`:

    python -m experiments.drqv2.train task=walker_walk replay_mode=full
    python -m experiments.drqv2.same_learning
    python -m experiments.drqv2.learning_curves
    python -m experiments.drqv2.published_table
    python -m experiments.drqv2.latency
    python -m experiments.drqv2.theoretical_factor

`networks` and `agent` learn. `environment` steps. `trainer` connects them to `drqv2_patch` and makes a run resumable.
`evaluation` and `logs` report progress. `commands` turns errors into one line, and `results` writes files.
"""
