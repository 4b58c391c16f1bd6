"""An engine in a thread of this process: for tests and small tools.

Served conversations use `engine.process`: beside a busy event loop a thread that must wake every few milliseconds loses them to the
interpreter lock, and a CUDA fault would take the server along.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading

from engine import commands as c
from engine.api import EngineDied
from engine.core import EngineCore
from engine.front import EngineFront

log = logging.getLogger("parley.engine")


class InProcessEngine(EngineFront):
    """Runs `core`, and closes it, in a thread. Make it inside a running event loop; close it before the loop ends. It is not restarted."""

    def __init__(self, core: EngineCore) -> None:
        super().__init__(core.info, core.limits.max_streams, self._put, self._yield)
        self._inbox: queue.SimpleQueue[c.Command | None] = queue.SimpleQueue()
        self._over: EngineDied | None = None  # why nothing is read from the inbox any more
        self._core = core
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    async def close(self) -> None:
        """Stop the thread after the step in flight; open streams end with EngineDied. Safe to call twice."""
        self._inbox.put(None)
        await asyncio.to_thread(self._thread.join)
        self._end(EngineDied("closed"))

    def _put(self, command: c.Command) -> None:
        if self._over is None:
            self._inbox.put(command)
        else:
            self.fail(self._over)

    @staticmethod
    async def _yield() -> None:
        await asyncio.sleep(0)

    def _end(self, error: EngineDied) -> None:
        if self._over is None:
            self._over = error
            self.fail(error)

    def _run(self) -> None:
        try:
            while self._take_commands():
                report = self._core.step()
                if report:
                    self._loop.call_soon_threadsafe(self.deliver, report)
        except Exception as error:  # supervisor: whatever broke the core ends every stream, with its reason
            log.exception("the engine's thread ended")
            self._loop.call_soon_threadsafe(self._end, EngineDied(f"{type(error).__name__}: {error}"))
        finally:
            self._core.close()

    def _take_commands(self) -> bool:
        """Apply what has arrived, waiting while there is nothing to do. False: the engine is being closed."""
        command: c.Command | None
        while True:
            try:
                command = self._inbox.get(block=not self._core.has_work())
            except queue.Empty:
                return True
            if command is None:
                return False
            self._core.handle(command)
