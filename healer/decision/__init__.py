"""The verdict and what bounds it: pure, without a clock, a network or a client."""
