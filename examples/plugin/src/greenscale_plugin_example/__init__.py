"""A backend and a queue for GreenScale: `GREENSCALE_BACKEND=sentiment`, `GREENSCALE_QUEUE=packed`."""
