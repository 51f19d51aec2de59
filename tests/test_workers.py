"""Workers: the same record whatever their number, what becomes of one that dies, and nothing left behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import nn

from agents.blackbox import CMAES, RandomSearch
from agents.ddpg import DDPG
from amc_env.env import make
from amc_env.evaluator import Evaluation, EvaluationError
from amc_env.metrics import IMAGE
from amc_env.plan import Plan
from amc_env.sharing import share
from amc_env.workers import WorkerError, Workers
from experiments.cli.config import CONF
from experiments.cli.problem import side_by_side
from experiments.recording.record import RunRecord, without_clock
from experiments.recording.tracking import NoTracker
from experiments.search import explore, search


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def gone(pids):
    """Whether processes end within half a minute."""
    for _ in range(300):
        left = [pid for pid in pids if running(pid)]
        if not left:
            return True
        time.sleep(0.1)
    return False


def running(pid):
    with suppress(ProcessLookupError, FileNotFoundError):
        os.kill(pid, 0)
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    return False


def pids_of(workers):
    return [worker.process.pid for worker in workers._workers]


# -- the same record


AGENTS = {
    "random": lambda spaces: RandomSearch(**spaces, decisions=5, seed=1),
    "cmaes": lambda spaces: CMAES(**spaces, decisions=5, seed=1, population=5),
    "ddpg": lambda spaces: DDPG(**spaces, seed=1, hidden=16, learn_after=6, batch=8, memory=60),
}


def record_of(envs, name, folder):
    """The rows of a search of 24 episodes."""
    spaces = {"observation_space": envs[0].observation_space, "action_space": envs[0].action_space}
    record = RunRecord.create(folder, {}, seeds={})
    asked = {"episodes": 24, "seed": 0, "leaders": 12, "save_every": 5}
    explore(envs, AGENTS[name](spaces), record, NoTracker(folder, {}), **asked)
    return without_clock(record.rows)


@pytest.mark.timeout(1200)  # seven processes start, seconds each where others are at work
def test_the_record_is_the_same_for_any_number_of_workers(tmp_path):
    env = make("digits_cnn-digits", target=0.3, block=20, confidence=1.0, rank=2)
    alone = {name: record_of([env], name, tmp_path / f"{name}-0") for name in AGENTS}
    spent = env.evaluator.forwards, env.evaluator.evaluations
    assert any(row["n_images"] < 200 for rows in alone.values() for row in rows)
    for count in (1, 2, 4):
        env.evaluator = env.judge("reward")
        with Workers(env.evaluator, count) as workers:
            env.evaluator = workers
            envs = [env, *(env.twin() for _ in range(count - 1))]
            for name, rows in alone.items():
                assert record_of(envs, name, tmp_path / f"{name}-{count}") == rows
        assert (workers.evaluator.forwards, workers.evaluator.evaluations) == spent


def config(folder, *overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        asked = ["experiment=digits", "episodes=64", "agent=random", "deliver=false", f"output={folder}"]
        return compose("config", [*asked, *overrides])


def started(folder, *overrides):
    """A search in a process group of its own, once its state is on the disk, and all its child processes."""
    asked = ["experiment=digits", "agent=random", "deliver=false", "workers=2", f"output={folder}"]
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "experiments.search", *asked, *overrides],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job ignores it
    )  # fmt: skip
    while not (folder / "search.state").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) >= 2
    return process, [int(child) for child in children]


def test_a_search_killed_with_workers_goes_on_with_another_number_of_them(tmp_path):
    process, children = started(tmp_path / "torn", "episodes=64")
    process.kill()
    process.communicate()
    assert gone(children)
    search(config(tmp_path / "torn", "workers=1"), tmp_path / "torn")
    search(config(tmp_path / "whole"), tmp_path / "whole")
    torn, whole = RunRecord.read(tmp_path / "torn"), RunRecord.read(tmp_path / "whole")
    assert len(whole.rows) == 64
    assert without_clock(torn.rows) == without_clock(whole.rows)
    for key in ("config", "best", "results"):
        assert without_clock(torn.content[key]) == without_clock(whole.content[key])


def test_nothing_is_left_behind_by_an_interrupt(tmp_path):
    process, children = started(tmp_path / "run", "episodes=100000")
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, stderr = process.communicate()
    assert (process.returncode, stderr) == (130, "error: interrupted\n")
    assert gone(children)
    assert RunRecord.read(tmp_path / "run").content["status"] == "interrupted"


def test_a_twin_has_an_episode_of_its_own():
    env = make("digits_cnn-digits", target=0.3)
    env.reset(seed=0)
    env.step([0.9])
    twin = env.twin()
    assert twin.evaluator is env.evaluator
    assert (len(env.counts), len(twin.counts)) == (1, 0)
    first, _ = twin.reset(seed=0)
    np.testing.assert_array_equal(first, env.twin().reset(seed=1)[0])
    for _ in range(5):
        *_, done, _, info = twin.step([0.2])
    assert done
    assert (len(env.counts), len(twin.counts)) == (1, 5)
    *_, done, _, other = env.step([0.2])
    assert not done
    assert other["macs"] > info["macs"]


def test_this_process_has_one_thread_beside_workers(monkeypatch):
    class Fake:
        def __init__(self, evaluator, count):
            self.evaluator = evaluator

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

    monkeypatch.setattr("experiments.cli.problem.Workers", Fake)
    env = make("digits_cnn-digits", target=0.3)
    whole, before = OmegaConf.create({"reward_images": None}), env.evaluator
    torch.set_num_threads(2)
    with side_by_side(OmegaConf.create({"workers": 0, "env": whole}), env) as envs:
        assert (torch.get_num_threads(), envs, env.evaluator) == (2, [env], before)
    with side_by_side(OmegaConf.create({"workers": 3, "env": whole}), env) as envs:
        assert torch.get_num_threads() == 1
        assert len({id(each) for each in envs}) == 3
        assert all(isinstance(each.evaluator, Fake) for each in envs)
    assert torch.get_num_threads() == 2
    assert env.evaluator is envs[1].evaluator.evaluator


# -- what happens to a worker


class Scripted:
    """Stands in for an evaluator: the first group of a plan says what happens, and ``log`` where it did."""

    stopping = None

    def __init__(self, log):
        self.log, self.seconds, self.forwards, self.evaluations = log, {"cut": 0.0}, 0, 0
        self.memory = {}

    def __call__(self, plan, leaders=()):
        with self.log.open("a") as file:
            file.write(f"{os.getpid()}\n")
        self.evaluations += 1
        told = len(plan.kept[0])
        if told == DIES or (told == DIES_ONCE and self.log.read_text().count("\n") == 1):
            os.kill(os.getpid(), signal.SIGKILL)
        if told == FAILS:
            raise EvaluationError("the logits are not finite")
        if told == FAILS_ODDLY:
            raise OddError(1, 2)
        if told == COUNTS_THREADS:
            told = torch.get_num_threads()
        if told == WAITS:
            time.sleep(60)
        return Evaluation(told / 100, 1.0, 0.0, 1.0, 0.0, 10, "reward")

    def remembered(self, plan):
        return self.memory.get(plan.hash, np.empty(0, IMAGE))

    def remember(self, plan, images):
        self.memory[plan.hash] = images


class OddError(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


DIES, DIES_ONCE, FAILS, FAILS_ODDLY, WAITS, COUNTS_THREADS = 1, 2, 3, 4, 5, 6


def plan(told):
    return Plan("graph", (tuple(range(told)),))


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "2")  # what a worker would take without being told
        with Workers(Scripted(tmp_path_factory.mktemp("workers") / "log"), 1) as workers:
            yield workers


@pytest.fixture
def log(pool):
    pool.evaluator.log.write_text("")
    return pool.evaluator.log


def test_a_worker_that_dies_is_replaced_and_its_plan_evaluated_again(pool, log):
    (before,) = pids_of(pool)
    assert pool(plan(DIES_ONCE)).top1 == DIES_ONCE / 100
    (after,) = pids_of(pool)
    assert log.read_text() == f"{before}\n{after}\n"
    assert before != after
    assert not running(before)
    os.kill(after, signal.SIGKILL)  # and one that dies with nothing to do
    assert pool(plan(50)).top1 == 0.5
    assert len({before, after, *pids_of(pool)}) == 3


def test_a_worker_has_one_thread(pool, log):
    assert pool(plan(COUNTS_THREADS)).top1 == 0.01


def test_a_plan_that_kills_its_workers_is_told(pool, log):
    bad = plan(DIES)
    with pytest.raises(WorkerError, match=f"3 workers died.* over plan {bad.hash}.* exit status -9.*memory"):
        pool(bad)
    assert log.read_text().count("\n") == 3
    assert pool(plan(51)).top1 == 0.51


def test_an_error_in_a_worker_arrives_as_itself_and_the_worker_lives_on(pool, log):
    before = pids_of(pool)
    for _ in range(2):  # it is not remembered
        with pytest.raises(EvaluationError) as caught:
            pool(plan(FAILS))
        assert str(caught.value) == "the logits are not finite"
    assert log.read_text().count("\n") == 2
    assert "in __call__" in "".join(caught.value.__notes__)  # where it was raised
    with pytest.raises(WorkerError, match="OddError: 1 and 2"):
        pool(plan(FAILS_ODDLY))
    assert pool(plan(52)).top1 == 0.52
    assert pids_of(pool) == before


def test_a_plan_is_sent_once_even_when_two_ask_at_the_same_time(pool, log):
    before = pool.evaluator.evaluations
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(pool, [plan(60)] * 4 + [plan(61)]))
    assert [evaluation.top1 for evaluation in found] == [0.6] * 4 + [0.61]
    assert log.read_text().count("\n") == 2 == pool.evaluator.evaluations - before
    assert pool(plan(60), [plan(61)]).top1 == 0.6  # without a rule of stopping, leaders are nothing to it
    assert log.read_text().count("\n") == 2


def test_the_end_of_the_context_ends_a_worker_at_work(tmp_path):
    errors = []

    def ask():
        try:
            workers(plan(WAITS))
        except WorkerError as error:
            errors.append(str(error))

    with Workers(Scripted(tmp_path / "log"), 1) as workers:
        pids = pids_of(workers)
        thread = threading.Thread(target=ask)
        thread.start()
        while not (tmp_path / "log").exists():
            time.sleep(0.01)
    thread.join()
    assert errors == ["the workers are closed"]
    assert not any(map(running, pids))
    with pytest.raises(WorkerError, match="closed"):
        workers(plan(50))


def test_a_worker_that_was_ended_for_good_is_stopped_again_and_not_started(tmp_path):
    with Workers(Scripted(tmp_path / "log"), 1) as workers:
        (worker,) = workers._workers
    pid = worker.process.pid
    assert worker.stop() == worker.stop() == -9  # as the thread that was asking does, after the end
    worker.start()
    assert worker.process.pid == pid


def test_an_error_in_the_context_ends_the_workers():
    with pytest.raises(KeyError), Workers(Scripted(Path()), 1) as workers:
        raise KeyError
    assert not any(map(running, pids_of(workers)))


def test_a_wrong_number_of_workers_is_told():
    with pytest.raises(ValueError, match="0 workers: there is at least 1"):
        Workers(Scripted(Path()), 0)


# -- shared memory


def test_tensors_come_back_as_they_were_from_one_block():
    base = torch.arange(24, dtype=torch.float64).view(4, 6)
    images = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    images = images.contiguous(memory_format=torch.channels_last)
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    network[0].bias.requires_grad_(False)
    value = {
        "base": base, "view": base[1:, ::2], "images": images, "none": torch.empty(0),
        "scalar": torch.tensor(7), "flags": torch.tensor([True, False, True]),
        "network": network, "tied": network[0].weight, "text": "rest",
    }  # fmt: skip
    shared = share(value)
    assert shared.block.is_shared()
    back = shared.load()
    for name in ("base", "view", "images", "none", "scalar", "flags"):
        assert torch.equal(back[name], value[name])
        assert (back[name].dtype, back[name].stride()) == (value[name].dtype, value[name].stride())
    assert back["images"].is_contiguous(memory_format=torch.channels_last)
    for name, tensor in network.state_dict().items():
        assert torch.equal(back["network"].state_dict()[name], tensor)
    assert [p.requires_grad for p in back["network"].parameters()] == [True, False, True, True]
    assert back["tied"] is back["network"][0].weight
    assert back["text"] == "rest"

    back["base"][
        1, 2
    ] = -1.0  # it shares memory with its view, with whoever loads it too, and with no original
    assert back["view"][0, 1] == -1.0 == shared.load()["view"][0, 1]
    assert base[1, 2] == 8.0
