"""`python -m edgept`."""

from edgept.cli import main

main(prog_name="edgept")
