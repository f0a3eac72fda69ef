"""Bulk work in stretches, here or on the machines of a Ray cluster."""

from __future__ import annotations

import os
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from typing import Any, TypeVar
from uuid import uuid4

from infogan.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")
Worker = Callable[[Item, int | None], Result]
"""Works on one stretch, with so many threads; None: as many as there are cores."""
_AHEAD = 2  # stretches for each core that are under way, so that none is idle


def spread(
    make: Callable[[], Worker[Item, Result]], items: Iterable[Item], engine: str | None = None
) -> Iterator[Result]:
    """What a worker makes of each item, in the order of items.

    Args:
        make: makes a worker. With Ray it is pickled and called once by each process, of which every core has one;
            files that it names must lie in the same place on all machines.
        items: drawn as they are needed.
        engine: None, in this process; `ray`, on the cores of this machine; `ray://HOST:PORT`, on a cluster.

    Raises:
        UserError: there is no such engine, or no cluster there.
    """
    if engine is None:
        worker = make()
        return (worker(item, None) for item in items)
    if engine != "ray" and not engine.startswith("ray://"):
        raise UserError(f"--engine {engine}: must be ray, or ray://HOST:PORT of a cluster")
    return _by_ray(make, items, engine)


def _by_ray(make: Callable[[], Worker[Item, Result]], items: Iterable[Item], engine: str) -> Iterator[Result]:
    ray: Any = import_module("ray")  # its types do not know what it makes of a function

    _connect(ray, engine)
    try:
        # A machine that is lost takes its stretches with it: they are done again elsewhere.
        work = ray.remote(num_cpus=1, max_retries=3)(_work)
        shared, name = [ray.put(make)], uuid4().hex
        ahead = _AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))
        waiting: deque[Any] = deque()
        for item in items:
            waiting.append(work.remote(shared, name, item))
            if len(waiting) >= ahead:
                yield ray.get(waiting.popleft())
        while waiting:
            yield ray.get(waiting.popleft())
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    finally:
        ray.shutdown()


_made: dict[str, Worker[Any, Any]] = {}


def _work(shared: list[Any], name: str, item: Any) -> Any:
    """By the worker that this process has made before, or makes now."""
    if name not in _made:
        import ray

        _made.clear()
        _made[name] = ray.get(shared[0])()
    return _made[name](item, 1)


def _connect(ray: Any, engine: str) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its makers
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # as where a Milvus collection is opened
    options = {"logging_level": "ERROR", "log_to_driver": False}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what they say, the error says too
            if engine == "ray":
                _start(ray, options)
            else:
                ray.init(engine, **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        asks = "is there a cluster, and does it ask for a token (RAY_AUTH_MODE=token)?"
        asks = "is this machine too busy?" if engine == "ray" else asks
        raise UserError(f"--engine {engine}: {reason}; {asks}") from None


def _start(ray: Any, options: dict[str, Any]) -> None:
    """On this machine; once more where it was too busy for the half minute that Ray gives each of its parts, or where
    gRPC, which the caller had imported before, aborted one of them as it started."""
    for attempt in range(2):
        try:
            ray.init("local", include_dashboard=False, _node_ip_address="127.0.0.1", **options)
            return
        except Exception as error:  # of no class of its own
            if "timed out" not in str(error).lower():
                raise
            ray.shutdown()
            if attempt:
                raise RuntimeError(str(error)) from None
