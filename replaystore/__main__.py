"""`python -m replaystore`: the command line."""

from replaystore.cli import main

if __name__ == "__main__":
    main()
