"""`python -m ultrafuser` is the `ultrafuser` command."""

from ultrafuser.cli import main

if __name__ == "__main__":
    main()
