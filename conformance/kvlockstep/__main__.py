"""`python -m kvlockstep`."""

from kvlockstep._cli import main

main()
