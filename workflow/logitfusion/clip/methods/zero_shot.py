"""CLIP untouched."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logitfusion.clip.methods.base import FewShotMethod, FewShotSettings, OnEpoch

if TYPE_CHECKING:
    from logitfusion.clip.heads import LinearHead, Support


class ZeroShot(FewShotMethod):
    """CLIP untouched: ``scale * clip @ classifier`` (Radford et al. 2021, arXiv 2103.00020)."""

    name = "zero_shot"
    family = "parts"

    def fit(self, support: Support, settings: FewShotSettings, *, seed: int, on_epoch: OnEpoch = None) -> LinearHead:
        from logitfusion.clip.heads import LinearHead

        return LinearHead(support.scale * support.classifier, None, support.classifier.new_zeros(support.classes))


METHODS = (ZeroShot(),)
