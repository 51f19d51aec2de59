"""Times forward passes: ``python -m experiments.latency checkpoint=runs/NAME/compressed.onnx``."""

from experiments.cli import config

main = config.command("latency", job="experiments.delivery.latency:run")

if __name__ == "__main__":
    main()
