"""The protocol that the queues in Redis share: leases, heartbeats, dead letters (docs/queue-protocol.md)."""
