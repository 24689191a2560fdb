"""`streamlit run dashboard/app.py`: the page, from a clone. `python -m greenscale_dashboard` runs the same."""

from greenscale_dashboard.app import main

main()
