"""CPython's faulthandler writes every thread's frames in a signal's handler.

Between some instructions of the interpreter's loop the newest frame is published and not yet complete. A handler that
walks the frames there reads what was in that memory before.
"""

import faulthandler
import json
import signal

faulthandler.register(signal.SIGPROF, file=open("/dev/null", "w"), all_threads=True)
total = 0
for _ in range(300):
    total += len(json.dumps({str(key): [key] * 3 for key in range(200)}))
print("python-frames:", total)
