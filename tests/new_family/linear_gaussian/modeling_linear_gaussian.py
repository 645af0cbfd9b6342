"""The linear-Gaussian model: x = W z + mu + noise, z ~ N(0, I), noise ~ N(0, sigma^2 I)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributions import LowRankMultivariateNormal
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from .configuration_linear_gaussian import LinearGaussianConfig


@dataclass
class LinearGaussianOutput(ModelOutput):
    """`loss`: -log p(x), in nats per image, averaged over the batch."""

    loss: Tensor | None = None


class LinearGaussianModel(PreTrainedModel):
    config_class = LinearGaussianConfig
    base_model_prefix = "linear_gaussian"
    main_input_name = "pixel_values"

    def __init__(self, config: LinearGaussianConfig):
        super().__init__(config)
        self.shape = (config.num_channels, config.image_size, config.image_size)
        self.decoder = nn.Linear(config.latent_size, torch.Size(self.shape).numel())  # W and mu
        self.log_std = nn.Parameter(torch.zeros(()))
        self.post_init()

    def _init_weights(self, module: nn.Module):
        if isinstance(module, nn.Linear):
            module.reset_parameters()
        elif module is self:
            nn.init.zeros_(self.log_std)

    def log_prob(self, pixel_values: Tensor) -> Tensor:
        """log N(x; mu, W W^T + sigma^2 I) in nats: (batch, channels, height, width) -> (batch,)."""
        variance = (2 * self.log_std).exp().expand(self.decoder.out_features)
        return LowRankMultivariateNormal(self.decoder.bias, self.decoder.weight, variance).log_prob(
            pixel_values.flatten(1)
        )

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> LinearGaussianOutput:
        return LinearGaussianOutput(loss=-self.log_prob(pixel_values).mean())

    @torch.no_grad()
    def sample(self, num_samples: int, *, labels: Tensor | None = None, generator=None) -> Tensor:
        """Draws of x, clamped: (num_samples, channels, height, width) in [0, 1]."""
        if labels is not None:
            raise ValueError("labels were given, but this model is unconditional: leave labels at None")
        device = generator.device if generator is not None else self.device
        sizes = (num_samples, self.config.latent_size), (num_samples, *self.shape)
        latents, noise = (torch.randn(size, generator=generator, device=device).to(self.device) for size in sizes)
        return (self.decoder(latents).unflatten(1, self.shape) + self.log_std.exp() * noise).clamp(0, 1)
