"""Tells receivers what has happened, signed, by jobs of a queue of its own.

`registry` keeps the endpoints, `events` makes one delivery of each event for each of them, `delivery` runs the
deliveries, `sender` speaks HTTP to addresses that `addresses` allows, `signature` signs.
"""
