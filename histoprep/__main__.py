"""`python -m histoprep`."""

from histoprep.cli import program

if __name__ == "__main__":
    program(called="python -m histoprep")
