"""`python -m appliance`: what `install.sh` runs."""

import sys
from pathlib import Path

from appliance.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], Path(__file__).resolve().parents[2]))
