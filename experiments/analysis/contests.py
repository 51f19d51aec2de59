"""Compares runs: a row for all seeds of an agent, and the series that charts draw."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from experiments.analysis import stats
from experiments.analysis.charts import Curve, Point
from experiments.analysis.joining import commits_in
from experiments.analysis.run import Run

POINTS = 32  # of a learning curve
UNITS = {"macs": "MACs", "params": "parameters"}
COSTS = {  # by key of `Run.costs`: name on an axis, and factor
    "macs_share": ("MACs, % of the dense network's", 100.0),
    "params_share": ("parameters, % of the dense network's", 100.0),
    "bytes": ("file, kB", 1e-3),
    "ms": ("ms for one image, onnxruntime", 1.0),
}
HEAD = [
    "network", "data", "budget", "agent", "seeds", "evaluations", "selection, before", "test, before",
    "test, after", "seconds", "commit",
]  # fmt: skip


@dataclass(frozen=True)
class Contest:
    """The runs of one network on one data set within one budget, by agent.

    ``setting`` is how plans become networks, in words; empty where all runs of the budget share it.
    """

    model: str
    data: str
    resource: str
    target: float
    setting: str
    runs: dict[str, list[Run]]

    @property
    def title(self) -> str:
        """The network, the data and the budget."""
        return f"{self.model} on {self.data}, {self.budget}"

    @property
    def budget(self) -> str:
        """As "50 % of the MACs", and the setting."""
        return ", ".join(part for part in (budget(self.resource, self.target), self.setting) if part)


def budget(resource: str, target: float) -> str:
    """A budget in words."""
    return f"{100 * target:g} % of the {UNITS.get(resource, resource)}"


def contests(runs: Iterable[Run]) -> list[Contest]:
    """Groups runs by network, data set and budget, and by setting where there are several.

    Runs in which nothing has been evaluated yet are left out.
    """
    budgets: dict[tuple[str, str, str, float], list[Run]] = defaultdict(list)
    for run in (run for run in runs if run.evaluations or run.before or run.after):
        budgets[(*run.problem, run.resource, run.target)].append(run)
    found = []
    for key, own in sorted(budgets.items()):
        settings = sorted({run.setting for run in own})
        shared = set[str].intersection(*map(set, settings))
        for setting in settings:
            agents: dict[str, list[Run]] = defaultdict(list)
            for run in own:
                if run.setting == setting:
                    agents[run.agent].append(run)
            words = ", ".join(word for word in setting if word not in shared)
            found.append(Contest(*key, words, dict(sorted(agents.items()))))
    return found


def by_reward(every: Iterable[Contest]) -> list[Contest]:
    """The same, apart for each reward: values of two rewards do not compare."""
    found = []
    for contest in every:
        rewards = sorted({run.reward for runs in contest.runs.values() for run in runs if run.curve})
        for reward in rewards:
            own = {
                agent: [run for run in runs if run.reward == reward] for agent, runs in contest.runs.items()
            }
            words = ", ".join(filter(None, [contest.setting, f"reward {reward}" if len(rewards) > 1 else ""]))
            found.append(
                replace(contest, setting=words, runs={agent: runs for agent, runs in own.items() if runs})
            )
    return found


def summary(every: Sequence[Contest]) -> list[list[str]]:
    """For each contest a row an agent, under `HEAD`; accuracies are means in percent with 95 % intervals."""
    rows = []
    for contest in every:
        for agent, every_run in contest.runs.items():
            runs = ended(every_run)
            stages = [("before", "selection"), ("before", "test"), ("after", "test")]
            cells = [percent([getattr(run, stage).get(split) for run in runs]) for stage, split in stages]
            seconds = [run.seconds for run in runs if run.seconds is not None]
            rows.append(
                [
                    contest.model, contest.data, contest.budget, f"`{agent}`", str(len(runs)),
                    span([run.evaluations for run in runs]), *cells,
                    f"{np.mean(seconds):.0f}" if seconds else "", commits(runs),
                ]
            )  # fmt: skip
    return rows


def ended(runs: Sequence[Run]) -> list[Run]:
    """Those of some runs that are finished; all of them where none is."""
    return [run for run in runs if run.status == "finished"] or list(runs)


def percent(values: Iterable[float | None], form: str = ".2f", factor: float = 100) -> str:
    """A cell: the mean of fractions in percent; several have a 95 % interval.

    Args:
        values: None is left out.
        form: of each number.
        factor: 100 makes percent of fractions.
    """
    known = [factor * value for value in values if value is not None]
    return stats.cell(known, form) if known else ""


def commits(runs: Iterable[Run]) -> str:
    """The short commits of some runs."""
    found = {commit for run in runs for commit in commits_in(run.commit)}
    return " ".join(f"`{commit[:9]}`" for commit in sorted(found))


def evaluations(contest: Contest) -> int:
    """The evaluations of the longest search with a curve; 0 without one."""
    return max((run.evaluations for runs in contest.runs.values() for run in runs if run.curve), default=0)


def learning(contest: Contest) -> list[Curve]:
    """Mean best reward so far against evaluations, with 95 % bands; rules are horizontal lines."""
    last = evaluations(contest)
    found = []
    for agent, runs in contest.runs.items():
        drawn = [run for run in ended(runs) if run.curve]
        if not drawn:
            continue
        first = max(run.curve[0][0] for run in drawn)  # of a staged search, in its last stage
        ends = min(run.evaluations for run in drawn)
        at = np.array([first, max(first, last)])  # of a single plan
        if ends > first:
            at = np.unique(np.geomspace(first, ends, POINTS).round().astype(int))
        values = np.array([[_reached(run, int(x)) for x in at] for run in drawn])
        found.append(_banded(agent, at, values))
    return found


def keeps(contest: Contest) -> list[Curve]:
    """Mean keep ratio of each decision by agent, with 95 % bands over seeds."""
    found = []
    for agent, runs in contest.runs.items():
        by_layers: dict[tuple[str, ...], list[list[float]]] = defaultdict(list)
        for run in ended(runs):
            by_layers[tuple(one.layer for one in run.plan)].append([one.ratio for one in run.plan])
        values = [np.array(same) for layers, same in by_layers.items() if layers]
        found += [_banded(agent, np.arange(each.shape[1]), each) for each in values]
    return found


def pareto(runs: Sequence[Run], cost: str) -> list[Point]:
    """Accuracy against a cost, a point a run; hollow if the network was not fine-tuned.

    Where some were measured on the test split, only those are points.
    """
    known = [(run, *run.accuracy) for run in runs if cost in run.costs and run.accuracy is not None]
    tested = any(kind.startswith("test") for _, _, kind in known)
    factor, found = COSTS[cost][1], list[Point]()
    for run, top1, kind in known:
        if kind.startswith("test") or not tested:
            x = factor * run.costs[cost]
            label = f"{run.name}\n{100 * top1:.2f} % ({kind}), {x:.4g} {COSTS[cost][0]}"
            found.append(Point(x, 100 * top1, run.agent, label, bool(run.after), run.name))
    return found


def _reached(run: Run, evaluation: int) -> float:
    return [reward for at, reward in run.curve if at <= evaluation][-1]


def _banded(series: str, x: np.ndarray, values: np.ndarray) -> Curve:
    """The mean over runs ``(runs, points)`` with its interval; a single run has none."""
    if len(values) == 1:
        return Curve(series, x.tolist(), values[0].tolist())
    return Curve(series, x.tolist(), *(each.tolist() for each in stats.band(values, stats.RESAMPLES // 2)))


def span(values: Sequence[int]) -> str:
    """A whole number, or "2 to 5" where there are several."""
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} to {high}"
