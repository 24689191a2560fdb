"""A page for people in front of GreenScale's gateway. It speaks HTTP to the gateway, and to nothing else."""
