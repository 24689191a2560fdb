"""A whole system on one machine: programs that are started in order, kept running, and stopped in reverse.

`services` says which programs there are and `supervisor` keeps them; `valkey` is the Redis among them, `folder` holds
its data, `probes` asks whether a program answers, and `tether` ties each of them to the life of ours.
"""
