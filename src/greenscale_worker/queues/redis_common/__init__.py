"""What the queues in Redis share: connections, scripts, insisting and the table of errors."""
