"""``python -m overtile.pipelines`` is the command ``overtile``."""

import sys

from overtile.pipelines.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
