"""`python -m streamsvc`."""

from streamsvc.cli.main import main

if __name__ == "__main__":
    main()
