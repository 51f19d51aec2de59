"""What records say of the results page's sections after that on policies; see `test_prose`."""

import re

import numpy as np
from prose import (
    EARLIER,
    Numbers,
    ceiling,
    cell,
    column,
    photo,
    rank,
    rate,
    record,
    way,
)
from scipy.stats import spearmanr

from agents.damage import POWER
from experiments.analysis.report import RESULTS_PAGE


def proxies() -> Numbers:
    plain, half, fashion, resnet, resnet_half = names = (
        *(f"plain20-cifar10-{share}" for share in (30, 50)),
        "plain20-fashion_mnist-30",
        *(f"resnet20-cifar10-{share}" for share in (30, 50)),
    )
    metrics = ("loss", "kl", "top1", "agreement")
    mended = [rank(plain, f"elimination, sequential {metric}") for metric in metrics]
    unmended = [rank(plain, f"elimination, none {metric}") for metric in metrics[:2]]
    others = [rank(plain, f"{order}, none top1") for order in ("elimination", "magnitude")]
    means = {
        name: [100 * np.mean(one["tuned"]) for one in record(f"fidelity/{name}")["rows"]] for name in names
    }
    ratios, largest = (column("repairs", "", name) for name in ("sequential / moments", "largest"))
    optima = "fashion_plain5` > 30 % of"
    found, even = (
        cell("tuned_optima", optima, f"`{policy}`", "test, fine-tuned") for policy in ("gp", "uniform")
    )
    return {
        "Plans within the share of": [
            rate(f"fidelity/{half}"), rate(f"fidelity/{plain}"), EARLIER,
        ],
        "So the repair decides": [
            min(mended), max(mended), ceiling(plain), rank(plain, "elimination, moments top1"),
            rank(plain, "elimination, moments loss"), max(unmended), max(others), rank(half), ceiling(half),
            max(means[half]) - cell("fidelity", f"{half}`", "elimination, sequential top1", "its best plans"),
            max(means[fashion]) - min(means[fashion]),
            rank(resnet), ceiling(resnet), rank(resnet_half), ceiling(resnet_half),
            rank(resnet_half, "elimination, moments top1"), rank(resnet_half, "fine-tuned 50 steps top1"),
            *(value for name in names for value in (rank(name), ceiling(name))),
            *perfect(),
        ],
        "**Under a budget of measured": [
            *(cell("milliseconds", f"{name}`", f"`{policy}` 50 % ms", what)
              for name, policy in (("plain20-cifar10", "gp"), ("mobilenet_v1-cifar10", "ddpg_paper"))
              for what in ("above uniform", "above its")),
            *(cell("milliseconds", "efficientnet_lite0-photos`", f"`{policy}` 70 % ms", "test agreement")
              for policy in ("cmaes", "uniform")),
        ],
        "`experiments.tuned_optima`": [
            rate("tuned_optima/digits"), 100 / 297, found - even,
            cell("tuned_optima", optima, "`gp`", "below the best"), noise_of_one(),
        ],
        "KL between the dense": [min(ratios), max(ratios), *sorted(largest)[:-3:-1], EARLIER],
    }  # fmt: skip


def perfect() -> list[float]:
    """The lowest and the highest correlation that a perfect proxy would have."""
    text = RESULTS_PAGE.read_text()
    found = [float(one) for one in re.findall(r"mean of the fine-tunings by about (0\.\d+)\.", text)]
    return [min(found), max(found)]


def noise_of_one() -> float:
    """The standard deviation of a tuning on `fashion_plain5`, in points."""
    found = re.findall(r"62 plans.* one fine-tuning's deviation (\d\.\d+) points", RESULTS_PAGE.read_text())
    return float(found[0])


def ways() -> Numbers:
    small, plain = (f"Ways of compressing: {name}" for name in ("fashion_cnn", "plain20"))
    least, less = (f"Accuracy-guaranteed: the fewest parameters: {name}" for name in ("plain20", "resnet20"))
    selection, both = "fine-tuned, selection", ("gp", "uniform")
    ms = "ms / dense"
    thin = [way(small, f"low_rank `{who}` {at} %", ms) for who in both for at in (70, 50, 35)]
    weights = [
        way(plain, f"{kind} `{who}` {at} %", ms)
        for kind, shares in (("fine_grained", (50, 30, 15)), ("weight_sharing", (20, 14, 10)))
        for who in both
        for at in shares
    ]

    def gain(title: str, kind: str, target: int) -> float:
        return way(title, f"{kind} `gp` {target} %") - way(title, f"{kind} `uniform` {target} %")

    joint, joint_plain = ([gain(title, "joint", at) for at in (20, 12, 8)] for title in (small, plain))
    teacher, name = "Fine-tuning with", "distill-vgg16-cifar10"
    taught = [
        way(teacher, f"with `uniform` {at} %") - way(teacher, f"without `uniform` {at} %") for at in (50, 20)
    ]
    limits = [
        way(least, "dense", selection) - way(least, f"fine_grained `{who}` 60 %", selection)
        for who in ("uniform", "gp")
    ]
    widths = [f"widths-plain20-digits-scratch_{share}" for share in (75, 50)]
    return {
        "Single weights and shared": [
            way(plain, "channels `gp` 30 %", ms), way(plain, "channels `uniform` 50 %", ms),
            way(plain, "joint `uniform` 8 %", ms), min(weights), max(weights), min(thin), max(thin),
        ],
        "On the small CNN all five": [
            *(rate(f"families/families-fashion_cnn-fashion_mnist-{kind}") for kind in ("channels", "joint")),
            *(gain(small, "weight_sharing", target) for target in (14, 10)),
            *(way(small, f"weight_sharing `{who}` 10 %") for who in both),
            min(joint), way(small, "fine_grained `gp` 50 %"),
        ],
        "On Plain-20 (shipped": [
            *(rate(f"families/families-plain20-cifar10-{kind}") for kind in ("channels", "joint")),
            way(plain, "dense", "before fine-tuning") - way(plain, "joint `gp` 20 %"),
            min(joint_plain), max(joint_plain), gain(plain, "channels", 50), gain(plain, "channels", 30),
            gain(plain, "fine_grained", 15),
        ],
        "**The fewest parameters": [
            rate("families/guaranteed-plain20-cifar10-fine_grained"),
            *(way(least, f"fine_grained `{who}` 80 %", selection) for who in both),
            way(least, "dense", selection),
            way(least, "dense", "before fine-tuning") - way(least, "fine_grained `uniform` 80 %"),
            *limits,
            *(way(less, f"fine_grained `{who}` 80 %", selection) for who in ("uniform", "gp")),
            way(less, "dense", selection),
        ],
        "**The dense network as a": [
            rate(f"families/{name}-with"), *taught, 1.4, rate(f"families/{name}-with"),
        ],
        "**On the digits thinner": [
            *(record(f"families/{name}")["config"]["model"]["options"]["width"] for name in widths),
            *(way("The width", f"scratch_{share} `uniform`") for share in (75, 50)),
            *(way("The width", f"pruned `{who}` {at} %") for who in ("uniform", "gp") for at in (56, 25)),
            way("The width", "dense", "before fine-tuning"),
        ],
        "Not measured:": [
            0.08, 0.0005, 0.002, 0.008,
            way(plain, "dense", "bytes") / way(plain, "weight_sharing `uniform` 20 %", "bytes"),
        ],
    }  # fmt: skip


def files() -> Numbers:
    def worse(name: str, *, of: str = "test") -> list[float]:
        """Points below the dense network of each seed's file."""
        folder = RESULTS_PAGE.parent / "deep_compression"
        found = [record(f"deep_compression/{path.stem}") for path in sorted(folder.glob(f"{name}-?.json"))]
        every = [one["results"]["accuracy"] for one in found]
        return [100 * (one["dense"][of] - one["file"][of]) for one in every]

    linear = "lenet300_100"
    short = worse(f"{linear}_short")
    weaker = cell("deep_compression", "", f"`{linear}_weaker`", "dense, test")
    unkept = 0.01, 0.3, 0.06  # trials without a record
    return {
        "* `lenet300_100` is": [
            float(np.mean(worse(f"{linear}_unshifted", of="selection")))
            - float(np.mean(worse(linear, of="selection"))),
            max(worse(linear)),
        ],
        "* `lenet300_100_short`": [min(short), max(short)],
        "* `lenet300_100_weaker`": [0.1, weaker],
        "* `lenet5` is": [rate("deep_compression/lenet5-0"), max(worse("lenet5")), *unkept],
        "* `vgg16` has": [
            *worse("vgg16"), *worse("vgg16_short", of="selection"), *worse("vgg16_short"),
        ],
    }  # fmt: skip


def rest() -> Numbers:
    bounds = ("least_error", 90), ("uniform", 90), ("least_error", 60), ("uniform", 60)
    halved = [
        100 * (one["halved"]["after"]["test"] - one["after"]["test"])
        for one in record("removed/confirm_epochs-plain20-digits")["rows"]
    ]
    shared = record("removed/shared_tuning-plain20-cifar10-30")["rows"]
    scores = [100 * float(np.mean(one["tuned"])) for one in shared]
    repairs = ("shared tuning, statistics", "elimination, sequential")
    proxies = {
        (name, metric): np.array([sign * one["proxies"][name][metric] for one in shared])
        for name in repairs
        for metric, sign in (("loss", -1), ("top1", 1))
    }
    ranks = [float(spearmanr(values, scores).statistic) for values in proxies.values()]
    orders = {name: one["loss_over_elimination_geometric_mean"]
              for name, one in record("removed/orders")["results"].items()}  # fmt: skip
    weighed = [100 * (value - 1) for name, value in orders.items() if "weighed" in name]
    taught = record("removed/feature_matching")["results"]["mean_test_percent"]
    others = {name: one["after_50"] for name, one in record("removed/length_scales")["results"].items()}
    damage = record("removed/damage")
    over = {name: one["kl_over_e^1.5_geometric_mean"] for name, one in damage["results"].items()}
    plain = {
        (one["damage"], one["target"]): one["kl"] for one in damage["rows"] if one["network"] == "plain20"
    }
    return {
        "Uniform at 90 and 60 %": [
            *(photo(*bound) for bound in bounds),
            *(photo("gp_errors", target) for target in (90, 80, 70, 60)),
            *(photo("gp", target) for target in (80, 70)),
            photo("ddpg_elites", 60),
        ],
        "`experiments.survey` takes": [0.0001],
        "| `confirm_epochs`:": [float(np.mean(halved)), 0.25, 0.81],  # the interval is of code that is gone
        "| one fine-tuning for all": [
            *ranks, max(scores), scores[int(np.argmax(proxies["shared tuning, statistics", "loss"]))],
            *(float(np.median([one["seconds"][name] for one in shared])) for name in repairs),
        ],
        "| features of the teacher": [
            max(taught["logits"], taught["logits and features"]) - taught["labels"],
            taught["logits and features"] - taught["logits and features x10"],
        ],
        "| other choices of the": [
            100 * (1 - orders["swaps"]), 100 * (orders["sequential inputs"] - 1), min(weighed), max(weighed),
        ],
        "| other Gaussian processes": [
            others["botorch"]["regret"], others["botorch"]["of_gp"],
            others["ard20"]["regret"], others["ard20"]["of_gp"],
            others["iso_errors"]["of_gp_errors"],
        ],
        "| other damages in": [
            POWER, over["sqrt(e l)"], POWER, over["e l"], over["l"],
            plain["sqrt(e l)", 0.5], plain["sqrt(e l)", 0.3], POWER, plain["e^1.5", 0.5], plain["e^1.5", 0.3],
        ],
    }  # fmt: skip
