"""A whole system on one machine: programs that are started in order, kept running, and stopped in reverse.

`services` lists the programs and `supervisor` keeps them running; `valkey` is the Redis among them, `folder` holds its
data, `probes` asks whether a program answers, and `tether` ends each program when ours dies.
"""
