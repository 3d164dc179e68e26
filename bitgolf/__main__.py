"""`python -m bitgolf`, and what torchrun starts: the command line."""

from bitgolf.lab.cli import main

if __name__ == "__main__":
    main()
