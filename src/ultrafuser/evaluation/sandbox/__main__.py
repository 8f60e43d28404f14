"""`python -m ultrafuser.evaluation.sandbox`: what a generated program is kept from on this machine, and by what."""

import json
import sys

from ultrafuser.evaluation.sandbox import Sandbox


def main() -> int:
    """Print the layers; exit status 1 where the machine offers none."""
    try:
        with Sandbox() as sandbox:
            sys.stdout.write(json.dumps(sandbox.describe(), indent=2) + "\n")
    except ValueError as problem:
        sys.stderr.write(f"{problem}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
