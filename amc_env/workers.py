"""Processes that evaluate plans side by side, one thread each."""

import pickle
import queue
import signal
import threading
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.resource_tracker import ensure_running
from types import TracebackType
from typing import Any, Self

import torch
from torch import multiprocessing

from amc_env.evaluator import Evaluation, Evaluator
from amc_env.metrics import Images
from amc_env.plan import Plan
from amc_env.sharing import Shared, share

ATTEMPTS = 3  # at one plan, before it is taken for what kills the workers

Known = list[tuple[Plan, Images]]


class WorkerError(RuntimeError):
    """Workers that die over a plan again and again, or that were closed."""


class Workers:
    """An evaluator whose plans other processes evaluate, as many at a time as there are of them.

    It is called, from as many threads, as the evaluator is, and answers the same: what processes there are
    and which of them does what changes only the time. They read the network, the images and the moments from
    memory that they share. One that dies is replaced, and its plan evaluated again.

    Args:
        evaluator: what was measured is remembered in it, and the processes' ``seconds``, ``forwards`` and
            ``evaluations`` are added to its own. It is not to be called meanwhile.
        count: how many processes, at least 1; fewer than cores, if the main process is to learn beside them.

    They start at once, in the background, and end with the context, with `close`, or with this process.
    """

    def __init__(self, evaluator: Evaluator, count: int) -> None:
        if count < 1:
            raise ValueError(f"{count} workers: there is at least 1; without any, call the evaluator itself")
        self.evaluator = evaluator
        self._shared = share(evaluator)
        self._lock = threading.Lock()  # of the evaluator's memory and the answers
        self._answers: dict[tuple[str, ...], Future[Evaluation]] = {}  # by hash of the plan and its leaders
        self._closed = False
        self._workers = [_Worker(self._shared) for _ in range(count)]
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        try:
            for worker in self._workers:
                worker.start()
                self._idle.put(worker)
        except BaseException:
            self.close()
            raise

    def __call__(self, plan: Plan, leaders: Sequence[Plan] = ()) -> Evaluation:
        """The evaluation of a plan, see `Evaluator`; waits for a process that has nothing to do.

        A plan that is being evaluated on another thread, or was evaluated, is not evaluated again.

        Raises:
            EvaluationError: as the evaluator does.
            WorkerError: when processes die over this plan, or were closed.
        """
        if self.evaluator.stopping is None or plan in leaders:
            leaders = ()
        for leader in leaders:
            self(leader)  # so that it is one process that runs all its images
        key = tuple(each.hash for each in (plan, *leaders))
        with self._lock:
            mine = key not in self._answers
            answer = self._answers.setdefault(key, Future())
        if mine:
            try:
                answer.set_result(self._ask(plan, leaders))
            except BaseException as error:
                del self._answers[key]
                answer.set_exception(error)
        return answer.result()

    @property
    def seconds(self) -> dict[str, float]:
        """What cutting and forward passes took, all processes added up."""
        return self.evaluator.seconds

    @property
    def forwards(self) -> int:
        """Images sent through a network, likewise."""
        return self.evaluator.forwards

    @property
    def evaluations(self) -> int:
        """Networks that were cut, likewise."""
        return self.evaluator.evaluations

    def close(self) -> None:
        """End all processes, at work or not."""
        self._closed = True
        for worker in self._workers:
            worker.stop(for_good=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, plan: Plan, leaders: Sequence[Plan]) -> Evaluation:
        with self._lock:
            known = [(each, self.evaluator.remembered(each)) for each in (plan, *leaders)]
        worker = self._idle.get()
        try:
            answer = self._persist(worker, (plan, leaders, known))
        finally:
            self._idle.put(worker)
        evaluation: Evaluation = answer[0]
        images, spent = answer[1:]
        with self._lock:
            self.evaluator.remember(plan, images)
            for name in self.seconds:
                self.seconds[name] += spent[name]
            self.evaluator.forwards += spent["forwards"]
            self.evaluator.evaluations += spent["evaluations"]
        return evaluation

    def _persist(self, worker: "_Worker", request: Any) -> Any:
        """A worker's answer, or its successor's."""
        for _ in range(ATTEMPTS):
            if self._closed:
                raise WorkerError("the workers are closed")
            try:
                answer = worker.ask(request)
            except (EOFError, OSError):
                status = worker.stop()
                worker.start()
            except BaseException:
                worker.stop()  # so that nobody takes the answer that it is still to give for another
                raise
            else:
                if isinstance(answer, BaseException):
                    raise answer
                return answer
        raise WorkerError(
            f"{ATTEMPTS} workers died, one after another, over plan {request[0].hash}, the last with exit "
            f"status {status}; -9 is most often that memory ran out: use fewer workers, or none"
        )


class _Worker:
    """A process and the pipe to it; one thread may stop it while another asks."""

    def __init__(self, shared: Shared) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would wait for threads that it does not have
        self._shared, self._context = shared, context
        self._lock, self._ended = threading.Lock(), False
        self.process: BaseProcess | None = None

    def start(self) -> None:
        """Begin a process, unless the last one was stopped for good."""
        with self._lock:
            if self._ended:
                return
            self._pipe, theirs = self._context.Pipe()
            process = self._context.Process(target=_work, args=(theirs, self._shared), daemon=True)
            with _uninterrupted():
                process.start()
            self.process = process
            theirs.close()

    def ask(self, request: Any) -> Any:
        """Send a request and wait for the answer, or the exception that was raised over there.

        Raises:
            EOFError, OSError: when the process is gone.
        """
        self._pipe.send(request)
        return self._pipe.recv()

    def stop(self, *, for_good: bool = False) -> int | None:
        """End the process, whatever it does; its exit status."""
        with self._lock:
            self._ended |= for_good
            if self.process is None:
                return None
            self.process.kill()
            self.process.join()
            if not self._pipe.closed:
                self._pipe.close()
            return self.process.exitcode


def _work(pipe: "Connection[Any, Any]", shared: Shared) -> None:
    """The life of a worker: it ends when nobody holds the other end of the pipe."""
    torch.set_num_threads(1)
    evaluator: Evaluator = shared.load()
    while True:
        try:
            pipe.send(_answer(evaluator, *pipe.recv()))
        except (EOFError, BrokenPipeError):
            return


def _answer(evaluator: Evaluator, plan: Plan, leaders: Sequence[Plan], known: Known) -> Any:
    before = _spent(evaluator)
    try:
        for each, images in known:
            if len(images):
                evaluator.remember(each, images)
        evaluation = evaluator(plan, leaders)
    except Exception as error:
        error.add_note(f"in a worker:\n{traceback.format_exc()}")
        return _sendable(error)
    spent = {name: value - before[name] for name, value in _spent(evaluator).items()}
    return evaluation, evaluator.remembered(plan), spent


def _sendable(error: Exception) -> Exception:
    """An exception, or what it says where it does not survive the way to another process."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return WorkerError(f"{type(error).__name__}: {error}")
    return error


def _spent(evaluator: Evaluator) -> dict[str, Any]:
    return evaluator.seconds | {"forwards": evaluator.forwards, "evaluations": evaluator.evaluations}


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C reaches all processes of a terminal; one that is started here does not hear of it."""
    ensure_running()  # which the first process would start, and let the signal through
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
