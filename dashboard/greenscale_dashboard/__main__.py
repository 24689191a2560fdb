"""`python -m greenscale_dashboard`: serve the page, on 127.0.0.1:8501 unless STREAMLIT_SERVER_… says otherwise."""

import sys
from pathlib import Path
from typing import Final

from streamlit.web.cli import main as streamlit

SCRIPT: Final = Path(__file__).with_name("app.py")


def main() -> None:
    """Serve the page until the process is told to end. Arguments go to `streamlit run`."""
    sys.argv[1:] = ["run", str(SCRIPT), *sys.argv[1:]]
    sys.exit(streamlit(prog_name="greenscale-dashboard"))


if __name__ == "__main__":
    main()
