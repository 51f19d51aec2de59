"""Every decimal number in the text of the three pages of results is that of a record, at its rounding."""

import inspect
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from prose import (
    CUTOUT,
    Numbers,
    above,
    agrees,
    cell,
    dense,
    density,
    lead,
    leads,
    numbers,
    paragraphs,
    photo,
    rate,
    record,
    row,
    shipped,
    theirs,
    tuned,
    within,
)
from prose_of_trials import files, proxies, rest, ways

from agents.damage import POWER
from agents.ddpg import Settings
from agents.ddpg_elites import EliteDDPG
from experiments.analysis.regret import NEAR
from experiments.analysis.report import AGENTS_PAGE, README, RESULTS_PAGE
from experiments.cli.signatures import ROOT


def front() -> Numbers:
    python = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    shown = ("gp_errors", "ddpg_elites", "uniform", "torch_pruning")
    return {
        "*EfficientNet-Lite0 at 70 %": [
            *(photo(policy, target) for target in (70, 80) for policy in shown),
            *(photo("least_error", target) for target in (70, 80)),
        ],
        "Both need Python": [float(python.removeprefix(">="))],
        "Plain-20 on CIFAR-10:": [shipped("plain20-cifar10"), tuned("ddpg_paper", 50, f"{CUTOUT}_400")],
        "After fine-tuning the plans": [
            *(lead(policy, target) for policy in ("gp", "ddpg_elites", "least_error") for target in (50, 30)),
            lead("gp", 50, f"{CUTOUT}_long"),
            *leads(50, "resnet56-cifar10-staged", "ddpg_elites", "cmaes", "gp", "ddpg_paper"),
            *(lead("least_error", target, "resnet56-cifar10-staged") for target in (50, 30)),
            *of_vgg(),
        ],
    }


def of_vgg() -> list[float]:
    """The lowest and the highest lead of a search on VGG-16 at 20 %, repaired from moments."""
    found = [
        above(f"VGG-16 {policy}, 20 %", "VGG-16 uniform, 20 %")
        for policy in ("greedy", "Gaussian process", "AMC (R_Err)")
    ]
    return [min(found), max(found)]


def agents() -> Numbers:
    def regret(agent: str) -> float:
        return cell("regret", "", f"`{agent}`", "400", AGENTS_PAGE)

    botorch = record("removed/length_scales")["results"]["botorch"]["after_50"]
    elite = inspect.signature(EliteDDPG).parameters["sigma_decay"].default
    return {
        "1. **Relative scale**": [0.5],
        "4. **A shorter warm-up": [elite, Settings().sigma_decay],
        "A table holds the reward": [NEAR],
        "`gp_errors` and `pretrained` have": [botorch["regret"], botorch["of_gp"], POWER],
        "`agent=pretrained` has an ensemble": [POWER],
        "So on small networks": [NEAR],
        "**Larger networks are": [
            tuned(policy, target) for policy in ("pretrained", "gp", "uniform") for target in (50, 30)
        ],
        "`python -m experiments.examples.foreign": [
            regret(agent) - regret("ddpg_elites") for agent in ("sb3_ppo", "one_file_ddpg")
        ],
    }


def results() -> Numbers:
    return papers() | policies() | proxies() | ways() | files() | rest()


def papers() -> Numbers:
    amc, dense_plain = row("Plain-20 AMC (R_Err)"), shipped("plain20-cifar10")
    plain = {policy: theirs("table2", f"Plain-20 {policy}", "after") for policy in ("uniform", "AMC (R_Err)")}
    resnet = [above(f"ResNet-56 {policy}", "ResNet-56 uniform") for policy in ("AMC", "Gaussian")]
    mobile = [
        above(f"MobileNet {policy}, {target} %", f"MobileNet uniform, {target} %")
        for target in (50, 40)
        for policy in ("greedy", "Gaussian process", "AMC")
    ]
    second = [
        above(f"MobileNet-V2 {policy}, 70 %", "MobileNet-V2 uniform, 70 %")
        for policy in ("greedy", "Gaussian process", "AMC")
    ]
    low = [density(share, policy) for share in (25, 20) for policy in ("AMC", "Gaussian")]
    return {
        "`make reproduce-table2` runs": [
            amc, tuned("gp", 50), tuned("uniform", 50),
            dense_plain - amc, dense_plain, 90.5 - plain["AMC (R_Err)"], 90.5, min(resnet), max(resnet),
        ],
        "On VGG-16 with a quarter": [
            *of_vgg(), lead("gp", 20, "vgg16-cifar10"), shipped("vgg16-cifar10"),
            theirs("table3", "VGG-16 AMC (R_Err), 20 %", "drop"),
        ],
        "On MobileNet V1 all": [
            min(mobile), max(mobile), within(*second),
            min(low), max(low), density(50, "AMC"), density(35, "AMC"),
        ],
        "As in the paper, a budget": [
            *(row(f"AMC, 50 % of the {what}", "times faster, ours") for what in ("time", "FLOPs")),
            *(theirs("latency", f"AMC, 50 % of the {what}", "speedup") for what in ("time", "FLOPs")),
            theirs("latency", "AMC, 50 % of the FLOPs", "after")
            - theirs("latency", "AMC, 50 % of the time", "after"),
            *(row(f"FCOS, {times}, uniform", "points, ours") for times in ("2x", "4x")),
            *(row(f"FCOS, {times}, AMC", "points, ours") - row(f"FCOS, {times}, uniform", "points, ours")
              for times in ("2x", "4x")),
        ],
    }  # fmt: skip


def policies() -> Numbers:
    earlier, paired = "plain20-cifar10", f"{CUTOUT}_processor"
    plain = [theirs("table2", f"Plain-20 {name}", "after") for name in ("AMC (R_Err)", "uniform")]
    deep = [theirs("table2", f"ResNet-56 {name}", "after") for name in ("AMC (R_Err)", "uniform")]
    staged = record("tuned/resnet56-cifar10-staged")["rows"]
    half = [one for one in staged if one["target"] == 0.5]
    searched = [
        100 * one["after"]["test"]
        for one in half
        if one["policy"] in ("gp", "ddpg_paper", "cmaes", "ddpg_elites")
    ]
    uniform = [100 * one["after"]["test"] for one in half if one["policy"] == "uniform"]
    found = [one["tuned"] for one in record("fidelity/plain20-cifar10-30")["rows"]]
    best = sorted(found, key=lambda pair: -sum(pair))[:12]
    noise = 100 * float(np.mean([abs(one - other) for one, other in best]))
    moments, long, fashion = f"{CUTOUT}_moments", f"{CUTOUT}_long", "plain20-fashion_mnist-30"
    searchers = ("ddpg_paper", "ddpg", "gp", "sb3_td3", "additive", "cmaes", "random")
    most = max(abs(bound) for target in (50, 30) for bound in leads(target, earlier, *searchers))
    sequential = [leads(target, f"{earlier}-sequential", "ddpg_elites", "gp", "cmaes") for target in (50, 30)]

    def before(target: int) -> float:
        scores = [tuned(policy, target, earlier, "before") for policy in searchers]
        return max(scores) - tuned("uniform", target, earlier, "before")

    return {
        "* The intervals of": [noise, noise],
        "* `plain20-cifar10-cutout`:": [shipped("plain20-cifar10"), rate(f"tuned/{CUTOUT}")],
        "* `plain20-cifar10-cutout_kl`:": [
            shipped("plain20-fashion_mnist"), rate("tuned/plain20-fashion_mnist-30"),
        ],
        "* `plain20-cifar10-sequential`:": [
            dense("tuned/plain20-cifar10-sequential"), rate("tuned/plain20-cifar10-sequential"),
        ],
        "* `plain20-cifar10`:": [rate("tuned/plain20-cifar10")],
        "* `vgg16-cifar10`:": [shipped("vgg16-cifar10"), rate("tuned/vgg16-cifar10")],
        "* `resnet56-cifar10-staged`:": [
            shipped("resnet56-cifar10"), rate("tuned/resnet56-cifar10-staged"),
        ],
        "On the shipped weights `gp_errors`": [lead("deep", 50), lead("ddpg_paper", 50)],
        "On the earlier weights of Plain-20 the sequential": [
            rate("tuned/plain20-cifar10-sequential"), rate(f"tuned/{CUTOUT}"),
        ],
        "**On the shipped weights of Plain-20 searched": [
            *(tuned(policy, target) for target in (50, 30) for policy in ("gp", "uniform")), *plain,
            *(tuned(policy, target) for policy in ("ddpg_elites", "shallow") for target in (50, 30)),
            *(tuned("uniform", target, paired) for target in (50, 30)),
            shipped("plain20-cifar10") - tuned("gp", 50), 90.5 - plain[0],
        ],
        "**Most of a search's gain": [
            *(tuned(policy, target) for policy in ("least_error", "uniform", "gp_errors", "gp")
              for target in (50, 30)),
        ],
        "**Longer fine-tuning": [
            tuned("uniform", 50, long) - tuned("uniform", 50), tuned("gp", 50, long) - tuned("gp", 50),
            lead("gp", 50, long), lead("gp", 50), shipped("plain20-cifar10") - tuned("gp", 50, long),
        ],
        "**A reward with less noise": [
            tuned("gp_kl", 30, f"{CUTOUT}_kl", "before"), tuned("gp", 30, CUTOUT, "before"),
            tuned("gp_kl", 30, f"{CUTOUT}_kl"), tuned("gp", 30), within(*leads(30, fashion, "gp", "gp_kl")),
        ],
        "**With the repair from moments": [
            tuned("shallow", 50, moments), tuned("uniform", 50, moments),
            *leads(50, moments, "ddpg_elites", "gp", "sb3_td3", "cmaes"),
            tuned("uniform", 50, moments) - tuned("uniform", 50),
        ],
        "**On the earlier weights of Plain-20 the gain": [
            before(50), before(30), most, noise, plain[0] - plain[1], *plain,
            sequential[0][1], sequential[1][0],
        ],
        "**On ResNet-56 at half": [
            min(searched), max(searched), min(uniform), max(uniform), *deep,
            shipped("resnet56-cifar10") - max(searched),
            shipped("resnet56-cifar10") - min(searched),
            lead("least_error", 50, "resnet56-cifar10-staged"),
            *(tuned(policy, 30, "resnet56-cifar10-staged", stage)
              for policy in ("least_error", "uniform") for stage in ("before", "after")),
        ],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("page", "known"), [(README, front), (AGENTS_PAGE, agents), (RESULTS_PAGE, results)],
    ids=["front", "agents", "results"],
)  # fmt: skip
def test_numbers_in_prose_are_those_of_records(page: Path, known: Callable[[], Numbers]) -> None:
    """A paragraph whose numbers are not known here fails too: say above what they are."""
    wrong, open_ = [], dict(known())
    for text in paragraphs(page.read_text()):
        start = next((start for start in open_ if text.startswith(start)), "")
        found, values = numbers(text), open_.pop(start, [])
        if len(found) != len(values) or not all(map(agrees, found, values)):
            wrong.append(f"{text[:60]}: {found}, but records give {[round(float(one), 4) for one in values]}")
    assert not wrong, "\n".join(wrong)
    assert not open_, "no paragraph begins so"


@pytest.mark.parametrize(
    ("printed", "value", "same"),
    [
        ("86.4", 86.43, True),
        ("86.4", 86.45, True),
        ("86.4", 86.51, False),
        ("1.10", -1.1, True),
        ("0.93", 0.94, False),
    ],
)
def test_a_number_agrees_at_its_rounding(printed: str, value: float, same: bool) -> None:
    assert agrees(printed, value) is same


def test_numbers_of_tables_code_and_addresses_are_not_prose() -> None:
    text = "a 1.5\nand 2.0.\n\n* `lr=0.1` [x](http://a/3.5)\n\n<!-- t -->\n4.5\n<!-- /t -->\n```\n5.5\n```\n"
    assert [numbers(one) for one in paragraphs(text)] == [["1.5", "2.0"], []]
