"""What the operating system gives: threads, memory, locks, durable files."""
