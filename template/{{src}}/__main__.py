"""`python -m` does what the installed command does."""

from .cli import main

main()
