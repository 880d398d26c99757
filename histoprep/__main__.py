"""`python -m histoprep`."""

from histoprep.cli import main

if __name__ == "__main__":
    main(called="python -m histoprep")
