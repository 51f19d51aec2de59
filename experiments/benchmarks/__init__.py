"""The speed of an episode, compared with the released code's procedure and with a bare forward pass."""
