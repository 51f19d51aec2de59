"""How fast an episode is: beside the released code's procedure, beside a bare pass, and as it grows."""

RANDOM = "random, batch norm calibrated"  # what a subject's weights are called where no checkpoint ships
