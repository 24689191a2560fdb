"""What the queues in Redis share: connections, scripts, insisting, grouping and the table of errors."""
