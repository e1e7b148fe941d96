"""Dynamic Logits Fusion: small fine-tuned experts steer a larger model at every decoding step (arXiv 2406.15480)."""

from logitfusion.fusion.decoding import Generation
from logitfusion.fusion.lm import FusedLM
from logitfusion.fusion.logits import fuse_logits
from logitfusion.fusion.weights import SolvedWeights, solve_weights

__all__ = ["FusedLM", "Generation", "SolvedWeights", "fuse_logits", "solve_weights"]
