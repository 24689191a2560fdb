"""Takes in the power readings of meters, stores each of them once, and shows them."""
