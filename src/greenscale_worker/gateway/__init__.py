"""The HTTP API: jobs, dead letters and numbers of one queue, for programs that do not speak Redis.

`table` lists the routes; application, OpenAPI document and page of documentation are made from it. The gateway knows
the queue by its client (`QueueClient`) only, and keeps nothing itself: any number of them may serve one queue.
"""
