"""`python -m fedcowpro.cli` does what `fedcowpro` does."""

from fedcowpro.cli import main

main()
