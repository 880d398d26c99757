"""`python -m trainer`, which is also what `torchrun -m trainer` starts."""

from trainer.cli import main

if __name__ == "__main__":
    main(called="python -m trainer")
