"""How fast an episode is: beside the released code's procedure, and beside a bare forward pass."""
