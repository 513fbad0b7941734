"""An episode in memory: checked, its stacks taken apart, its rows collected one by one."""
