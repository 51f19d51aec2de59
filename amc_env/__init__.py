"""Compression of a trained CNN, layer by layer, as Gymnasium environments."""

import gymnasium as gym

SHIPPED, TABULAR = "amc_env.building:ShippedEnv", "amc_env.tabular:TabularEnv"

gym.register("AMC/Plain20-FashionMNIST-v0", SHIPPED, kwargs={"checkpoint": "plain20-fashion_mnist"})
gym.register("AMC/ResNet20-FashionMNIST-v0", SHIPPED, kwargs={"checkpoint": "resnet20-fashion_mnist"})
gym.register("AMC/ResNet56-FashionMNIST-v0", SHIPPED, kwargs={"checkpoint": "resnet56-fashion_mnist"})
gym.register("AMC/MobileNetV1-FashionMNIST-v0", SHIPPED, kwargs={"checkpoint": "mobilenet_v1-fashion_mnist"})
gym.register("AMC/TinyCNN-Digits-v0", SHIPPED, kwargs={"checkpoint": "digits_cnn-digits"})
gym.register("AMC/Tabular-Digits-v0", TABULAR, kwargs={"table": "digits"})
gym.register("AMC/Tabular-Fashion-v0", TABULAR, kwargs={"table": "fashion"})
