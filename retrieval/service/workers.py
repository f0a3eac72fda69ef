"""Worker processes that hold the index, and the queue before them: what waits together is worked on together.

Decoding a stranger's photo, the network and the search run there, so that HTTP never waits for them, a core is never
idle for Python's lock, and a photo that brings a decoder down takes nothing else along.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import os
import signal
import traceback
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from infogan.errors import UserError
from retrieval.index import Replaced
from retrieval.service.refusal import Refusal

log = logging.getLogger("retrieval.service")
_SPAWN = multiprocessing.get_context("spawn")
QUEUE = 512  # what waits beyond that is sent away
BATCH = 32  # searches at once: from there on they are hardly quicker, and wait for longer
SECONDS = 120  # that work may take
_STARTING = 60
_FULL = 0.8  # of the batch before: a worker waits for so many
_PATIENCE = 0.3  # of the time that it took: but no longer


@dataclass
class Job:
    """A call of one of the engine's methods, on its way."""

    method: str
    argument: Any
    future: asyncio.Future[Any]
    deaths: int = 0  # workers that died of it, or of another in its batch

    @property
    def joins(self) -> bool:
        """Whether it can be done together with others."""
        return self.method == "search" and not self.deaths


class Workers:
    """A queue, and worker processes that empty it.

    Args:
        directory: of the index.
        count: how many; each works on one core.
    """

    def __init__(self, directory: Path, count: int) -> None:
        self.directory, self.count = directory, count
        self._waiting: deque[Job] = deque()
        self._busy = self._dead = 0
        self._arrived = asyncio.Condition()
        self._threads = ThreadPoolExecutor(count, "worker")
        self._processes: list[_Process] = []
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def ready(self) -> bool:
        """Whether there is a worker that can answer."""
        return self._dead < len(self._tasks)

    async def start(self) -> None:
        """Start the processes; returns when all of them have opened the index.

        Raises:
            UserError: it cannot be opened.
        """
        self._processes = [_Process(self.directory) for _ in range(self.count)]
        loop = asyncio.get_running_loop()
        await asyncio.gather(*(loop.run_in_executor(self._threads, process.open) for process in self._processes))
        self._tasks = [asyncio.create_task(self._feed(process)) for process in self._processes]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for process in self._processes:
            process.end()
        self._threads.shutdown()

    async def ask(self, method: str, argument: Any = None) -> Any:
        """What the engine's method gives.

        Raises:
            Refusal: it refuses, or too much is waiting.
            RuntimeError: a fault of ours, with its traceback.
        """
        if len(self._waiting) >= QUEUE:
            raise Refusal(503, "too many requests are waiting; try again")
        job = Job(method, argument, asyncio.get_running_loop().create_future())
        self._waiting.append(job)
        async with self._arrived:
            self._arrived.notify_all()  # one alone might be a worker that still waits for more
        return await job.future

    async def _feed(self, process: _Process) -> None:
        """Give one worker what waits, again and again."""
        loop = asyncio.get_running_loop()
        batch: list[Job] = []
        seconds = 0.0
        while True:
            await self._gathered(_FULL * len(batch), _PATIENCE * seconds)
            async with self._arrived:
                await self._arrived.wait_for(lambda: self._waiting)
                batch = self._taken()
            if not batch:
                continue
            self._busy += 1
            start = loop.time()
            try:
                work = [(job.method, job.argument) for job in batch]
                replies = await loop.run_in_executor(self._threads, process.exchange, work)
            except (EOFError, OSError, TimeoutError) as error:
                log.error("a worker has died (%s) with %d at work; another takes its place", error, len(batch))
                self._bury(batch)
                async with self._arrived:
                    self._arrived.notify_all()  # another worker may take it over while this one is replaced
                await self._replace(process)
                batch = []
                continue
            finally:
                self._busy -= 1
                seconds = loop.time() - start
            for job, reply in zip(batch, replies, strict=True):
                _settle(job.future, reply)

    async def _gathered(self, enough: float, seconds: float) -> None:
        """Wait until as many jobs have come as were done together last, or nearly, but not for long.

        Whoever gets an answer may have another question: with the first of these alone, a worker would read the whole
        catalogue. Where there was no more than one, nothing is waited for.
        """

        async def come() -> None:
            async with self._arrived:
                await self._arrived.wait_for(lambda: len(self._waiting) >= enough)

        if enough > 1:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(come(), seconds)

    async def _replace(self, process: _Process) -> None:
        """Start another in the place of one that has died, however often that takes."""
        self._dead += 1
        while True:
            try:
                await asyncio.get_running_loop().run_in_executor(self._threads, process.open)
            except (UserError, RuntimeError, OSError) as error:
                log.error("a worker does not start: %s", error)
                await asyncio.sleep(1)
            else:
                self._dead -= 1
                return

    def _taken(self) -> list[Job]:
        """The first that waits and, if it is a search, a fair share of the others."""
        share = min(BATCH, -(-len(self._waiting) // max(1, self.count - self._busy)))
        batch: list[Job] = []
        while self._waiting and len(batch) < share:
            if batch and not (batch[0].joins and self._waiting[0].joins):
                break
            job = self._waiting.popleft()
            if not job.future.done():
                batch.append(job)
        return batch

    def _bury(self, batch: list[Job]) -> None:
        """A worker has died of one of these: each tries once more, alone."""
        for job in reversed(batch):
            job.deaths += 1
            if job.deaths < 3:
                self._waiting.appendleft(job)
            else:
                _settle(job.future, Refusal(422, "photo: damaged or unreadable image"))


def _settle(future: asyncio.Future[Any], reply: Any) -> None:
    if future.done():
        return
    if isinstance(reply, BaseException):
        future.set_exception(reply)
    else:
        future.set_result(reply)


class _Process:
    """One worker process, as the service sees it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._process: Any = None
        self._pipe: Connection | None = None

    def open(self) -> None:
        """Start it, or start another in its place, and wait until it is ready."""
        self.end()
        self._pipe, theirs = _SPAWN.Pipe()
        self._process = _SPAWN.Process(target=work, args=(theirs, self.directory), daemon=True, name="retrieval worker")
        try:
            self._process.start()
        finally:
            theirs.close()
        try:
            reply = self._receive(_STARTING)
        except (EOFError, OSError) as error:
            raise RuntimeError("a worker did not start") from error
        if reply is not None:
            raise reply

    def exchange(self, batch: list[tuple[str, Any]]) -> list[Any]:
        assert self._pipe is not None
        self._pipe.send(batch)
        return self._receive(SECONDS)

    def _receive(self, seconds: float) -> Any:
        assert self._pipe is not None
        if not self._pipe.poll(seconds):
            raise TimeoutError(f"no answer within {seconds:g} s")
        return self._pipe.recv()

    def end(self) -> None:
        if self._pipe is not None:
            self._pipe.close()
        if self._process is not None:
            self._process.join(0.5)
            if self._process.is_alive():
                self._process.kill()
                self._process.join()


def work(pipe: Connection, directory: Path) -> None:
    """A worker's life: open the index, answer batches, end when the service does."""
    for number in (
        signal.SIGINT,
        signal.SIGTERM,
    ):  # these are for the service, which ends its workers when it has drained
        signal.signal(number, signal.SIG_IGN)
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
    from retrieval.service.engine import Engine

    try:
        engine = Engine(directory)
    except (UserError, ModuleNotFoundError) as error:
        pipe.send(error)
        return
    pipe.send(None)
    while True:
        try:
            batch = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            answers = _answers(engine, batch)
        except Replaced:
            engine = Engine(directory)
            answers = _answers(engine, batch)
        pipe.send(answers)


def _answers(engine: Any, batch: list[tuple[str, Any]]) -> list[Any]:
    """What each gets; where one of several brings all down, they are asked one by one.

    Raises:
        Replaced: the engine is to be opened anew.
    """
    method = batch[0][0]
    try:
        if method == "search":
            return engine.search([argument for _, argument in batch])
        return [getattr(engine, method)(*(() if batch[0][1] is None else (batch[0][1],)))]
    except Replaced:
        raise
    except Exception as error:
        if len(batch) > 1:
            return [answer for job in batch for answer in _answers(engine, [job])]
        # A fault of ours is told to whoever reads the log, and the worker goes on.
        return [error if isinstance(error, Refusal) else RuntimeError(traceback.format_exc())]
