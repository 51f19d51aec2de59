"""How fast an episode is: beside the released code's procedure, beside a bare pass, and as it grows."""
