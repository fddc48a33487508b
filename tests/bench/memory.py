"""One candidate's added peak memory, asked for by one JSON argument: problem, size, options, candidate."""

from __future__ import annotations

import gc
import json
import resource
import sys

import candidates


def peak() -> float:
    """Return the most memory that this process has held, in MB (Linux counts kB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


request = json.loads(sys.argv[1])
size = tuple(request["size"]) if isinstance(request["size"], list) else request["size"]
runs = getattr(candidates, request["problem"])(size, **request["options"])
run = candidates.both_ways(runs[request["candidate"]])
gc.collect()
before = peak()
for _ in range(2):
    run()
print(peak() - before)
