"""`python -m bitgolf`, and what torchrun starts: the command line."""

from bitgolf.cli.main import main

if __name__ == "__main__":
    main()
