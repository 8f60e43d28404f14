"""A fuser of copies of the base, none of them specialised: "LlamaFuser" (Ding et al., ACL 2025, figure 5)."""

from __future__ import annotations

from typing import Any

from ultrafuser.baselines.setting import Made, Setting
from ultrafuser.baselines.trained import train_fuser

__all__ = ["copies"]

JITTER = 1e-3


def copies(setting: Setting) -> Made:
    """As many copies of the common base as there are specialists, fused and trained in the recipe's own stages.

    What breaks the symmetry: copy j reads its prompts in specialist j's template, so its hidden states differ from the
    others' from the first token on. Copies that read alike would get equal weights and equal gradients and stay one
    model for ever; those get noise of JITTER times each matrix's own deviation, drawn from the seed.
    """
    opened: dict[str, Any] = {}
    alike = []
    for j, name in enumerate(setting.names):
        opened[name] = setting.open_base()
        if setting.templates[name] in [setting.templates[other] for other in setting.names[:j]]:
            jitter(opened[name], 1000 * setting.seed + j)
            alike.append(name)
    gate, fusion = setting.recipe.gate.model_dump(exclude_none=True), setting.recipe.fusion.model_dump()
    fused = setting.fuse(opened, setting.templates, gate=gate, fusion=fusion)
    noise = f"; noise set {', '.join(alike)} apart" if alike else ", told apart by their templates"
    note = f"{len(opened)} copies of the base{noise}, fused in the recipe's stages."
    return train_fuser(setting, fused, setting.fused_stages, method="copies", note=note)


def jitter(model: Any, seed: int) -> None:
    """Add noise to every matrix, JITTER times its standard deviation, drawn on the CPU from `seed`."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                draw = torch.randn(parameter.shape, generator=generator)
                parameter.add_((JITTER * parameter.float().std() * draw.to(parameter.device)).to(parameter.dtype))
