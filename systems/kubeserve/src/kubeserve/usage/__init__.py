"""What deployments use, by the minute: counted by doors, brought by Redis, kept in the database.

A door counts each minute into a bucket with a name of its own, and writes the bucket's sums so far into Redis, however
often. `Taker` keeps them as a row of that name, the greater of each number and what is there. Any of both may be done
twice, late, or by two at once, and each call counts once; a door that is killed takes its last seconds with it.
"""
