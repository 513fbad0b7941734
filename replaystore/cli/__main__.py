"""`python -m replaystore.cli`."""

from replaystore.cli import main

if __name__ == "__main__":
    main()
