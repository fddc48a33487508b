"""One candidate's added peak memory, asked for by one JSON argument: problem, size, options, candidate."""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path

import candidates


def held(line: str) -> float:
    """Return a line of the kernel's account of this process in MB: VmRSS, held now, or VmHWM, the most ever held."""
    status = Path("/proc/self/status").read_text()  # (getrusage would count what the parent held, too)
    return int(next(entry for entry in status.splitlines() if entry.startswith(line)).split()[1]) / 1024


request = json.loads(sys.argv[1])
size = tuple(request["size"]) if isinstance(request["size"], list) else request["size"]
runs = getattr(candidates, request["problem"])(size, **request["options"])
run = candidates.both_ways(runs[request["candidate"]])
gc.collect()
Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
before = held("VmRSS")
for _ in range(2):
    run()
print(held("VmHWM") - before)
