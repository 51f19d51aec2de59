"""Compression of a trained CNN, layer by layer, as Gymnasium environments."""

import gymnasium as gym

for _model, _data, _checkpoint in (
    ("Plain20", "FashionMNIST", "plain20-fashion_mnist"),
    ("ResNet20", "FashionMNIST", "resnet20-fashion_mnist"),
    ("ResNet56", "FashionMNIST", "resnet56-fashion_mnist"),
    ("MobileNetV1", "FashionMNIST", "mobilenet_v1-fashion_mnist"),
    ("TinyCNN", "Digits", "digits_cnn-digits"),
):
    gym.register(
        id=f"AMC/{_model}-{_data}-v0", entry_point="amc_env.env:make", kwargs={"checkpoint": _checkpoint}
    )
for _name, _table in (("Digits", "digits"), ("Fashion", "fashion")):
    gym.register(
        id=f"AMC/Tabular-{_name}-v0", entry_point="amc_env.tabular:TabularEnv", kwargs={"table": _table}
    )
