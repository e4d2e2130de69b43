"""New connections to the site at a fixed rate. Runs on the visitor's machine until /tmp/prober-stop; prints when those that were answered began.

  prober.py ADDRESS EVERY_MS TIMEOUT_MS
"""
import asyncio
import os
import sys
import time

ANSWERED = []


async def probe(address, timeout):
    began = time.time()
    writer = None
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_connection(address, 80)
            writer.write(b"GET / HTTP/1.0\r\nHost: www.foobar.com\r\n\r\n")
            if (await reader.readline()).split()[1:2] == [b"308"]:
                ANSWERED.append(began)
    except (OSError, TimeoutError):
        pass
    finally:
        if writer:
            writer.close()


async def main(address, every, timeout):
    tasks, due = set(), time.monotonic()
    while not os.path.exists("/tmp/prober-stop"):
        task = asyncio.create_task(probe(address, timeout / 1000))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        due += every / 1000
        await asyncio.sleep(max(0, due - time.monotonic()))
    await asyncio.gather(*tasks)
    print(*("%.4f" % began for began in sorted(ANSWERED)), sep="\n")


asyncio.run(main(sys.argv[1], float(sys.argv[2]), float(sys.argv[3])))
