"""An episode in memory: checks its fields, splits its frame stacks, collects its rows one by one."""
