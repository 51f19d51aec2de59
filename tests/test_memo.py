"""Measurements on disk: the same answers with and without them, whatever happened to the files."""

import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import SHAPE, images, network

from amc_env import memo
from amc_env.compressors.surgery import drop
from amc_env.evaluator import Evaluator
from amc_env.graph.trace import trace
from amc_env.memo import Memo
from amc_env.metrics import IMAGE
from amc_env.plan import Plan
from amc_env.stopping import Stopping

DATA = images(400)
MODEL = network("residual")
GRAPH = trace(MODEL, SHAPE)
DENSE = Plan.dense(GRAPH)
POOR, NEAR = DENSE.with_group(0, (0,)), DENSE.with_group(1, tuple(range(7)))
LEADERS = [DENSE, *(DENSE.with_group(0, tuple(set(range(12)) - {lost})) for lost in range(9))]
QUESTIONS = [(DENSE, ()), (POOR, LEADERS), (NEAR, LEADERS), (POOR, [NEAR, *LEADERS]), (POOR, ())]

pytestmark = pytest.mark.usefixtures("cache")


def make(memo="drop", model=MODEL, data=DATA, **settings):
    rule = Stopping(8, 3.0, lambda plan, evaluation: evaluation.agreement, rank=2)
    return Evaluator(model, GRAPH, data, drop, batch_size=4, stopping=rule, memo=memo, **settings)


def answers(evaluate):
    return [evaluate(*question) for question in QUESTIONS]


def files(cache: Path):
    return sorted(path for path in cache.rglob("*") if path.is_file())


def test_a_warm_memo_gives_what_a_cold_one_and_none_give_and_runs_nothing(cache):
    without = answers(make(None))
    assert not cache.exists()
    cold, warm = make(), make()
    assert answers(cold) == without
    assert cold.forwards == 40 + 12 * 40
    assert answers(warm) == without
    assert (warm.forwards, warm.evaluations) == (40, 0)  # the dense network, to know which task it is
    assert {path.name for path in files(cache)} == {plan.hash for plan in (*LEADERS, POOR, NEAR)}
    for plan in (*LEADERS, POOR, NEAR):
        assert warm.remembered(plan).tobytes() == cold.remembered(plan).tobytes()


def test_what_was_stopped_is_gone_on_with(cache):
    first = make()
    first(POOR, LEADERS)
    assert len(first.remembered(POOR)) == 8
    second = make()
    assert second(POOR) == make(None)(POOR)
    assert second.forwards == 40 + 32
    third = make()
    assert third(POOR, LEADERS) == first(POOR, LEADERS)
    assert (len(third.remembered(POOR)), third.forwards) == (40, 40)


def test_what_was_remembered_from_elsewhere_does_not_hide_the_disk(cache):
    first = make()
    first(POOR)
    second = make()
    second.remember(POOR, first.remembered(POOR)[:8])
    assert second(POOR) == first(POOR)
    assert second.forwards == 40
    third = make("nothing on disk")
    third.remember(POOR, first.remembered(POOR)[:8])
    assert third(POOR) == first(POOR)
    assert third.forwards == 40 + 32


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:20],
        lambda content: content[:-1],
        lambda content: content[: -IMAGE.itemsize],
        lambda content: content[:40] + bytes([content[40] ^ 1]) + content[41:],
        lambda content: bytes([content[0] ^ 1]) + content[1:],
    ],
)
def test_a_damaged_file_is_dropped_said_and_made_again(cache, damage):
    without = answers(make())
    (path,) = [path for path in files(cache) if path.name == POOR.hash]
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    again = make()
    with pytest.warns(UserWarning, match=f"{POOR.hash} is damaged: it is dropped"):
        found = answers(again)
    assert found == without
    assert again.forwards == 40 + 40
    assert path.read_bytes() == whole


def test_a_file_of_another_plan_is_not_taken(cache):
    answers(make())
    by_name = {path.name: path for path in files(cache)}
    by_name[POOR.hash].write_bytes(by_name[NEAR.hash].read_bytes())
    with pytest.warns(UserWarning, match="is damaged"):
        assert make()(POOR) == make(None)(POOR)


def test_another_task_has_another_folder(cache, monkeypatch):
    other_weights = network("residual", seed=1)
    relabelled = images(400, classes=3)
    evaluate = make()
    folders = [
        evaluate._memo.folder,
        make("moments")._memo.folder,
        make(model=other_weights)._memo.folder,
        make(split="selection")._memo.folder,
        make(images=36)._memo.folder,
        make(data=relabelled)._memo.folder,
        Evaluator(MODEL, GRAPH, DATA, drop, batch_size=5, memo="drop")._memo.folder,
    ]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    folders += [evaluate._memo.folder]
    monkeypatch.undo()
    monkeypatch.setattr(memo, "code", lambda: "another version")
    monkeypatch.setenv("AMC_CACHE", str(cache))
    folders.append(make()._memo.folder)
    assert len(set(folders)) == len(folders)
    assert all(folder.is_relative_to(cache / "evaluations") for folder in folders)


def test_the_code_is_that_of_the_package():
    assert memo.code() == memo.code.__wrapped__()
    sources = list(Path(memo.__file__).parent.rglob("*.py"))
    assert {"evaluator.py", "surgery.py", "reconstruct.py"} <= {path.name for path in sources}


def test_where_nothing_can_be_written_a_warning_says_so_once(cache):
    cache.mkdir()
    (cache / "evaluations").write_text("in the way")
    evaluate = make()
    with pytest.warns(UserWarning, match="not kept from here on") as caught:
        found = evaluate(DENSE)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate(POOR)
    assert found == make(None)(DENSE)


WRITER = """
import sys, numpy as np
from amc_env.metrics import IMAGE
from amc_env.memo import Memo
from amc_env.plan import Plan
memo, kept, count = Memo(task="race"), Plan("graph", ((0,),)), 0
print(memo.folder, flush=True)
while True:
    count = count % 1000 + 1
    memo.write(kept, np.full(count, count % 2, IMAGE))
"""


def test_writers_that_are_killed_leave_whole_files(cache):
    plan, reader = Plan("graph", ((0,),)), Memo(task="race")
    command = [sys.executable, "-c", WRITER]
    writers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        for writer in writers:
            assert writer.stdout.readline().strip() == str(reader.folder)
        read = set()
        for _ in range(6000):  # at most; a minute
            found = reader.read(plan)
            assert len(set(found["top1"].tolist())) <= 1
            read.add(len(found))
            if len(read) > 100:
                break
            time.sleep(0.01)
    finally:
        for writer in writers:
            os.kill(writer.pid, signal.SIGKILL)
            writer.wait()
            writer.stdout.close()
    assert len(read) > 100
    assert len(reader.read(plan)) >= 1
    reader.write(plan, np.zeros(7, IMAGE))
    assert len(reader.read(plan)) == 7
