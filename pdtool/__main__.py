"""`python -m pdtool` is the `pdtool` command."""

from pdtool.cli.main import main

main()
