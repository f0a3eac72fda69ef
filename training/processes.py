"""Several processes that train as one: how many there are, which is the first, and how they agree."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from omegaconf import DictConfig
from pytorch_lightning.plugins.environments import ClusterEnvironment, SLURMEnvironment, TorchElasticEnvironment
from pytorch_lightning.strategies import DDPStrategy

from infogan.errors import UserError

# What torchrun, SLURM and Lightning's own launcher set in the processes they start.
RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID")
LEADER = "SOLE2VEC_LEADER"  # the process id of the first, for those it starts
PATIENCE = timedelta(minutes=30)  # the first process measures while the others wait


@dataclass(frozen=True)
class Layout:
    """How many processes share a batch.

    Attributes:
        devices: of each node.
        nodes: machines.
    """

    devices: int
    nodes: int

    @property
    def processes(self) -> int:
        return self.devices * self.nodes


def layout(train: DictConfig) -> Layout:
    """What torchrun or SLURM started, else what the config's `train` section asks for.

    Raises:
        UserError: the two contradict each other, there are not so many devices, or the batch does not divide.
    """
    launched = _launched()
    devices = train.devices if train.devices != "auto" else launched.devices if launched else _visible_devices()
    asked = Layout(devices, launched.nodes if launched and train.nodes == 1 else train.nodes)
    if launched and asked != launched:
        raise UserError(
            f"train.devices × train.nodes is {asked.devices} × {asked.nodes}, but {launched.devices} × {launched.nodes}"
            " processes were launched; leave both to the launcher"
        )
    if torch.cuda.is_available() and asked.devices > torch.cuda.device_count():
        raise UserError(f"train.devices is {asked.devices}; this machine has {torch.cuda.device_count()} GPUs")
    if train.batch_size % asked.processes:
        near = asked.processes * max(2, round(train.batch_size / asked.processes))
        raise UserError(
            f"train.batch_size is {train.batch_size} over all devices and does not divide by {asked.processes};"
            f" set it to {near}, or change train.devices"
        )
    if train.batch_size < 2 * asked.processes:
        raise UserError(f"train.batch_size is {train.batch_size}; {asked.processes} devices need two photos each")
    if train.fakes and (train.fakes % asked.processes or train.fakes < 2 * asked.processes):
        raise UserError(
            f"train.fakes is {train.fakes}; it must divide by the {asked.processes} devices, each of which needs two"
        )
    return asked


def _launched() -> Layout | None:
    """The layout of the launcher that started this process, if one did."""
    if TorchElasticEnvironment.detect():
        local, total = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
        return _even(total, local, total // local)
    if SLURMEnvironment.detect():
        tasks, nodes = int(os.environ["SLURM_NTASKS"]), int(os.environ.get("SLURM_NNODES", 1))
        if tasks > 1 and "SLURM_NTASKS_PER_NODE" not in os.environ:  # Lightning refuses it too, with a traceback
            raise UserError(f"SLURM was asked for {tasks} tasks by --ntasks; ask by --nodes and --ntasks-per-node")
        if tasks > 1 and "SLURM_STEP_ID" not in os.environ:
            raise UserError("SLURM was asked for several tasks and srun did not start this one; put srun before python")
        return _even(tasks, tasks // nodes, nodes)
    return None


def _even(total: int, devices: int, nodes: int) -> Layout:
    if devices * nodes != total:
        raise UserError(f"{total} processes were launched on {nodes} nodes; launch as many on each")
    return Layout(devices, nodes)


def _visible_devices() -> int:
    return max(1, torch.cuda.device_count())


def is_first() -> bool:
    """Whether this process is the one that writes; true before any process group exists, and of a process alone."""
    return all(os.environ.get(name, "0") == "0" for name in RANKS)


def is_first_of_node() -> bool:
    """Whether this process is to tell what only its own machine knows."""
    return all(os.environ.get(name, "0") == "0" for name in ("LOCAL_RANK", "SLURM_LOCALID"))


def strategy(layout: Layout) -> DDPStrategy | str:
    """Lightning's strategy: data-parallel processes, each gradient averaged once an optimiser step.

    Each player's backward leaves the other's weights unused, which plain DDP takes for a fault. Buffers are not sent
    round: with global batch norm they are equal, without it the first process's are kept.
    """
    if layout.processes == 1:
        return "auto"
    return DDPStrategy(find_unused_parameters=True, broadcast_buffers=False, timeout=PATIENCE)


def environments() -> list[ClusterEnvironment]:
    """SLURM's, told not to requeue: Lightning would save a checkpoint of its own kind first."""
    if SLURMEnvironment.detect() and not TorchElasticEnvironment.detect():
        return [SLURMEnvironment(auto_requeue=False)]
    return []


class Agreement:
    """What one process was asked to do, all do after the same step.

    The answer is one step old: it travels on the CPU while the next step runs, so that no step waits for it.
    """

    def __init__(self) -> None:
        alone = not dist.is_initialized() or dist.get_world_size() == 1
        self.group: Any = None if alone else dist.new_group(backend="gloo", timeout=PATIENCE)
        self.flag = torch.zeros(1, dtype=torch.int32)
        self.pending: Any = None

    def __call__(self, flag: int) -> int:
        """The largest flag that any process gave at the call before; alone, this call's."""
        if self.group is None:
            return flag
        if self.pending is not None:
            self.pending.wait()
        agreed = int(self.flag)
        self.flag = torch.tensor([flag], dtype=torch.int32)
        self.pending = dist.all_reduce(self.flag, dist.ReduceOp.MAX, group=self.group, async_op=True)
        return agreed


@contextmanager
def leading() -> Iterator[None]:
    """The processes that Lightning starts meanwhile know this one, see `leave_with_leader`."""
    os.environ[LEADER] = str(os.getpid())
    try:
        yield
    finally:
        del os.environ[LEADER]


def leave_with_leader() -> None:
    """End this process when the one that started it is gone: killed, it can tell nobody, and we would wait for it.

    It may be gone before we come here, seconds after we were started: what our parent is by now says nothing. A
    launcher other than Lightning sees to its processes itself.
    """
    if LEADER not in os.environ:
        return
    leader = int(os.environ[LEADER])

    def watch() -> None:
        while os.getppid() == leader:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
