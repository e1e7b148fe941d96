"""LP++: a linear probe whose weights blend learned prototypes with the text embeddings (arXiv 2404.02285).

The paper's: logits ``l_c = f . (w_c + a_c t_c)``, a multiplier a_c of each class's text embedding t_c beside a learned
prototype w_c; cross-entropy over the full batch, jointly convex in both blocks; block-coordinate majorize-minimize,
whose step sizes are inverse Lipschitz constants worked out from the data, so that no rate is searched.

Derived here: the constants. The Hessian of cross-entropy with respect to logits is at most I / 2 (Boehning 1992), so
that of the mean over N rows is at most ``max eigenvalue(F^T F) / (2 N)`` for the prototypes and
``sum_i (f_i . t_c)^2 / (2 N)`` for each multiplier, and every step is certain not to raise the loss. The paper's bound
is for one class at a time and has 1/4 for 1/2, which makes its steps twice as long and their descent approximate. Also
from here: the multipliers start at CLIP's own scale and the prototypes at 0, so that the start is zero-shot CLIP (the
paper starts at a multiple of the class means).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from logitfusion.clip.methods.base import FewShotMethod, FewShotSettings, OnEpoch, Passes, Views

if TYPE_CHECKING:
    from logitfusion.clip.heads import LinearHead, Support

# A full-batch method has iterations, not epochs: it reports every so many.
REPORT_EVERY = 10


class LPPlusPlus(FewShotMethod):
    """LP++: a linear probe that blends learned prototypes with the text embeddings (arXiv 2404.02285).

    Full-batch and deterministic; ten iterations are an epoch to a report.
    """

    class Settings(FewShotSettings):
        """The settings of ``lp_plus_plus``."""

        iterations: Passes = 300
        """Full-batch steps of both blocks."""
        views: Views = "all"
        """all views as rows of their own, or the plain one."""

    name = "lp_plus_plus"
    by_epochs = True

    def fit(self, support: Support, settings: Settings, *, seed: int, on_epoch: OnEpoch = None) -> LinearHead:
        import torch
        from torch.nn.functional import one_hot

        from logitfusion.clip.heads import LinearHead

        def head() -> LinearHead:
            return LinearHead(prototypes + multipliers * text, None, text.new_zeros(support.classes))

        with torch.no_grad():
            features, labels = support.rows("clip", settings.views)
            count, text = len(features), support.classifier
            targets = one_hot(labels, support.classes).to(features.dtype)
            likeness = features @ text  # [N, C]
            prototype_step = 2.0 * count / torch.linalg.matrix_norm(features, 2).square()
            multiplier_step = 2.0 * count / likeness.square().sum(0).clamp_min(1e-12)
            prototypes, multipliers = torch.zeros_like(text), text.new_full((support.classes,), support.scale)
            visual = torch.zeros_like(likeness)
            for iteration in range(1, settings.iterations + 1):
                excess = ((visual + multipliers * likeness).softmax(-1) - targets) / count
                prototypes -= prototype_step * (features.T @ excess)
                visual = features @ prototypes
                excess = ((visual + multipliers * likeness).softmax(-1) - targets) / count
                multipliers -= multiplier_step * (likeness * excess).sum(0)
                if on_epoch is not None and iteration % REPORT_EVERY == 0:
                    on_epoch(iteration // REPORT_EVERY, head())
            return head()


METHODS = (LPPlusPlus(),)
