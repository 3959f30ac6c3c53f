"""Runs the cases whose names contain one of the arguments, a few at a time, and reports each."""

import asyncio
import pkgutil
import sys
import time
import traceback

import cases
from lab import Lab, Skip

# As many as two cores serve while conditions, not clocks, decide.
AT_ONCE = 4


def all_cases():
    """The coroutine functions of all modules in `cases` whose names begin with `case_`."""
    for module in pkgutil.iter_modules(cases.__path__):
        found = __import__(f"cases.{module.name}", fromlist=["*"])
        for name, value in vars(found).items():
            if name.startswith("case_"):
                yield f"{module.name}: {name.removeprefix('case_').replace('_', ' ')}", value


async def run(name, case, room):
    async with room:
        lab, start = Lab(), time.monotonic()
        try:
            await case(lab)
        except Skip as skip:
            print(f"skipped: {name}: {skip}", flush=True)
            return None
        except BaseException as error:
            print(f"FAILED {name}\n{traceback.format_exc()}", flush=True)
            for process in lab.processes:
                print(f"--- {process.popen.args}\n{process.output()[-4000:]}", flush=True)
            if not isinstance(error, Exception | asyncio.CancelledError):
                raise
            return False
        finally:
            lab.close()
        print(f"ok {name} ({time.monotonic() - start:.0f} s)", flush=True)
        return True


async def main(words):
    chosen = [
        (name, case)
        for name, case in all_cases()
        if not words or any(word in name for word in words)
    ]
    room = asyncio.Semaphore(AT_ONCE)
    results = await asyncio.gather(*(run(name, case, room) for name, case in chosen))
    passed, failed, skipped = (results.count(result) for result in (True, False, None))
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return failed > 0 or not chosen


sys.exit(asyncio.run(main(sys.argv[1:])))
