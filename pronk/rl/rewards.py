"""What the loss makes of raw rewards. Reports never see this."""

from torch import Tensor

from pronk.config.schema import RewardConfig


def transform(reward: Tensor, config: RewardConfig) -> Tensor:
    """Scaled, then clipped or squashed rewards, of the shape and dtype of `reward`.

    `clip` is Atari's [-1, 1]; `soft_asymmetric` is the "optimistic asymmetric clipping" that IMPALA
    uses on DMLab-30: 0.3·min(tanh r, 0) + 5·max(tanh r, 0) (arXiv 1802.01561, figure D.1).
    """
    scaled = reward * config.scale
    match config.transform:
        case "none":
            return scaled
        case "clip":
            return scaled.clamp(-1.0, 1.0)
        case "soft_asymmetric":
            squashed = scaled.tanh()
            return 0.3 * squashed.clamp(max=0.0) + 5.0 * squashed.clamp(min=0.0)
