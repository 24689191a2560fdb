"""Queues in Redis: jobs in a list or a stream, by one protocol of leases and heartbeats (docs/queue-protocol.md)."""
