"""The results of "Just Round" beside ours: memory, time and learning of PPO and SAC with rounded observations."""
