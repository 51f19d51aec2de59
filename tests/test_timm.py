"""Every CNN family of timm: traced, cut by a random plan, held against its masks and independent counts."""

import time
import warnings

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from amc_env.compressors.surgery import cut
from amc_env.compressors.trial import check, random_plan, try_cut
from amc_env.cost import Macs, Params, mask_widths
from amc_env.graph.trace import trace

timm = pytest.importorskip("timm")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

FAMILIES = (
    "resnet18", "resnet50d", "resnext50_32x4d", "seresnet50", "ecaresnet50d", "skresnet18",
    "res2net50_26w_4s", "resnest14d", "resnetv2_50", "resnetrs50", "resnetblur50", "wide_resnet50_2",
    "resnet26t", "gernet_s", "repvgg_a0", "repvgg_b0", "regnetx_002", "regnety_002", "regnetz_c16",
    "densenet121", "dla34", "hrnet_w18_small", "cspresnet50", "cspdarknet53", "darknet53", "vovnet39a",
    "ese_vovnet19b_dw", "selecsls42b", "dpn68", "inception_v3", "inception_v4", "inception_resnet_v2",
    "xception41", "xception71", "legacy_xception", "nasnetalarge", "pnasnet5large", "mobilenetv1_100",
    "mobilenetv2_100", "mobilenetv3_small_100", "mobilenetv3_large_100", "mobilenetv4_conv_small",
    "mobilenetv4_conv_medium", "efficientnet_b0", "efficientnet_lite0", "tf_efficientnet_lite0",
    "tf_efficientnetv2_b0", "efficientnetv2_rw_t", "mixnet_s", "tinynet_e", "fbnetc_100", "fbnetv3_b",
    "spnasnet_100", "semnasnet_075", "mnasnet_100", "lcnet_050", "hardcorenas_a", "rexnet_100",
    "ghostnet_100", "ghostnetv2_100", "ghostnetv3_100", "convnext_atto", "convnextv2_atto",
    "convnext_tiny", "focalnet_tiny_srf", "inception_next_tiny", "starnet_s1", "fasternet_t0",
    "repghostnet_050", "repvit_m0_9", "mobileone_s0", "hgnet_tiny", "hgnetv2_b0", "nf_regnet_b0",
    "nfnet_l0", "dm_nfnet_f0", "vgg11_bn", "vgg16", "mambaout_femto", "rdnet_tiny", "tresnet_m",
    "convformer_s18",
)  # fmt: skip
LARGE = ("nasnet", "pnasnet", "inception", "legacy_xception")  # need more than 64 positions a side


def built(name: str) -> nn.Module:
    """With random weights, and statistics of batch norm that are not those of the start."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # timm's own
        model: nn.Module = timm.create_model(name, num_classes=10).eval()
    for key, value in model.state_dict().items():
        if key.endswith("running_mean"):
            value.normal_(0, 0.1)
        elif key.endswith("running_var"):
            value.uniform_(0.5, 1.5)
    return model


@pytest.mark.parametrize("name", FAMILIES)
def test_family(name: str) -> None:
    side = 96 if name.startswith(LARGE) else 64
    model = built(name)
    start = time.perf_counter()
    graph = trace(model, (3, side, side))
    seconds = time.perf_counter() - start
    try_cut(model, graph)

    plan, images = random_plan(graph, 1), torch.randn(2, 3, side, side)
    assert check(model, graph, plan, images) < 1e-4
    small = cut(model, graph, plan)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        small(images[:1])
    widths = mask_widths(graph, graph.mask(plan.kept))
    assert 2 * int(Macs(graph)(widths)) == counter.get_total_flops()
    assert int(Params(graph)(widths)) == sum(parameter.numel() for parameter in small.parameters())
    assert graph.groups
    assert seconds < 9  # three times what is wanted, for a busy machine
