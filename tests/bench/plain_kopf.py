"""A plain operator, as kopf's tutorial has it: default settings and one handler for Pods. Ends when it has seen N.

plain_kopf.py N NAMESPACE      (with KUBECONFIG)
"""

import asyncio
import sys
from typing import Any

import kopf

seen: set[str] = set()
done = asyncio.Event()


@kopf.on.event("pods")  # type: ignore[arg-type]
def see(uid: str, **_: Any) -> None:
    seen.add(uid)
    if len(seen) >= int(sys.argv[1]):
        done.set()


async def main() -> None:
    operator = asyncio.create_task(kopf.operator(namespaces=[sys.argv[2]], standalone=True))
    await done.wait()
    operator.cancel()
    await asyncio.wait([operator], timeout=10)


if __name__ == "__main__":
    asyncio.run(main())
