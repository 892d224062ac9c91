"""The paper's theory as code: what a neuron expresses, and networks that approximate functions."""

from linfdist.theory.approximation import Approximation, approximate
from linfdist.theory.max_of_pyramids import Box, NotLipschitz, Pyramids, pyramids

__all__ = ["Approximation", "Box", "NotLipschitz", "Pyramids", "approximate", "pyramids"]
