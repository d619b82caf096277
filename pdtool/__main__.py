"""The `pdtool` command and `python -m pdtool`: catches Ctrl-C while everything else is still being imported."""

import sys


def main() -> None:
    """Import the command line and run it; 130 after Ctrl-C."""
    try:
        from pdtool.cli.main import main as run
    except KeyboardInterrupt:
        print("pdtool: stopped", file=sys.stderr)
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
