"""Batches of up to 50,000 lines: fed into the queue a window at a time, collected into files, resumed by anybody.

A batch is a leased job of a queue of its own; `Feeder` is its handler. It works in steps of 30 s and keeps nothing
between them but what it has committed. **A state object is the commit**: it names everything that counts, it is
written once under the next number (`Files.create`), and the highest number is the state. A state says of each line up
to `place` that its end is in a part that the state names, or that it is open. So of each moment at which a feeder
may be killed, what comes after it is this:

- *The request was accepted, and the gateway is killed before it has answered.* The job holds the whole request, and
  its first step writes the batch. A retry finds the same id (`alike`), and both calls can be made again.
- *Lines were read or put, before a state.* The next feeder reads and puts them again. A line's job has an id made of
  the batch and the line's number and is put `once`: what is there is not put a second time.
- *Lines ended, before a state.* They are still open, and their answers still in Redis, since only lines that a state
  has taken are forgotten. They are collected again.
- *A part was written, before a state.* No state names it, so it does not count; at the end it is deleted.
- *A state was written, before its lines were forgotten.* It names the lines it took: the next step forgets them.
- *A feeder wakes up that has lost its lease.* The number that it writes is taken: it stops, and what it wrote does not
  count. A line that it put meanwhile may run twice; one of the two is collected.
- *Redis lost its data.* A line that is open and has no record is put again. The job of the batch itself is put again
  by whoever asks for the batch.
- *Files or Redis are away.* The step ends, and the next one begins where the last state says. Nothing is counted
  against the batch: it is no dead letter, whatever happens, and it ends as `expired` at the latest. Only a fault of
  ours that keeps it from ending for an hour after that makes it fail.
- *All gateways were away for longer than answers last* (GREENSCALE_RESULT_TTL_SECONDS). Lines of the window whose
  answers have expired are put and paid again; the rest was never fed.
- *It was cancelled while it ended.* The mark of the cancellation counts until a state says `finalizing`.
- *The end was written, before anybody was told.* The step runs again, and tells again, with the same time.
- *The input file was deleted.* The batch fails and says so; answers that are there stay.

Lines that failed are in the error file, so their dead letters are discarded.
"""
