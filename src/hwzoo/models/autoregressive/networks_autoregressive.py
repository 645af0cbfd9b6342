"""The networks that give each value of an image, from those before it in the order, the logits of its levels."""

import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DynamicCache, GPT2Config, GPT2Model

from .configuration_autoregressive import AutoregressiveConfig

# The name under which GPT2Model takes the keys and values of earlier positions; it changed in transformers 5.24.
CACHE = "cache" if "cache" in inspect.signature(GPT2Model.forward).parameters else "past_key_values"
# Positions up to which attention is written out: for 49 of them, in bfloat16 on a CPU, a training step of the fused
# kind took 1.7 times as long, mostly in its backward; for 784 the fused one is three times as fast.
SHORT = 128

Draw = Callable[[Tensor, int, int, int], Tensor]


def num_logits(config: AutoregressiveConfig) -> int:
    """Logits of a value: that of a 1 for two levels, else one for each level."""
    return 1 if config.num_levels == 2 else config.num_levels


class CausalConv2d(nn.Conv2d):
    """
    A convolution whose output at a pixel depends on pixels before it in the order of reading (arXiv:1601.06759,
    section 3.4): rows above, and of its own row what the type of its mask allows. The kernel has no rows below.

    Args:
        in_channels: of the input, in `num_groups` equal groups, one for each channel of the image.
        out_channels: of the output; where they are gates and values (`halves` 2), each half has all groups.
        kernel_size: width of the kernel, odd; its height is (kernel_size + 1) / 2, or 1 for a `row`.
        mask_type: `A`: left of the pixel, and of the pixel itself the groups before the output's own; `B`: its own
            group too; `rows`: the whole row, which then may hold nothing of its own pixels (a vertical stack).
        dilation: distance of the pixels that meet neighbouring weights.
        num_groups: channels of the image.
        row: whether the kernel is of the pixel's own row alone (a horizontal stack).
        halves: 1 or 2.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        mask_type: str,
        *,
        dilation: int = 1,
        num_groups: int = 1,
        row: bool = False,
        halves: int = 1,
    ):
        self.num_left = kernel_size // 2
        self.num_above = self.num_right = 0 if row else self.num_left
        size = self.num_above + 1, self.num_left + 1 + self.num_right
        super().__init__(in_channels, out_channels, size, dilation=dilation)
        self.mask_type, self.num_groups, self.halves = mask_type, num_groups, halves

    def group_mask(self) -> Tensor:
        """1 where a weight may be used: (groups of the output, groups of the input, height, width of the kernel)."""
        mask = self.weight.new_ones(self.num_groups, self.num_groups, *self.kernel_size)
        if self.mask_type != "rows":
            mask[:, :, -1, self.num_left + 1 :] = 0
            mask[:, :, -1, self.num_left].tril_(-1 if self.mask_type == "A" else 0)
        return mask

    def masked_weight(self) -> Tensor:
        """The weights that are used; the others are 0."""
        if self.mask_type == "rows":
            return self.weight
        mask = self.group_mask()
        if self.num_groups > 1:
            mask = mask.repeat_interleave(self.in_channels // self.num_groups, 1)
            mask = mask.repeat_interleave(self.out_channels // self.num_groups // self.halves, 0)
            mask = mask.repeat(self.halves, 1, 1, 1)
        return self.weight * mask

    def forward(self, inputs: Tensor) -> Tensor:
        """(batch, in_channels, height, width) -> (batch, out_channels, height, width)"""
        return self._convolve(inputs, self.masked_weight(), self.bias)

    def needed(self, outputs: Tensor) -> Tensor:
        """The inputs on which some of the outputs depend: bool, (groups, height, width) both."""
        # On the CPU: not every device has float64, and in float32 some convolutions leave traces of rounding.
        with torch.inference_mode(False), torch.enable_grad():
            inputs = torch.zeros(outputs.shape, dtype=torch.double, requires_grad=True)
            reached = self._convolve(inputs[None], self.group_mask().cpu().double(), None)
            needed = torch.autograd.grad(reached, inputs, outputs[None].cpu().double())[0] > 0
        return needed.to(outputs.device)

    def _convolve(self, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        # Padded on one side by a copy of the inputs: to pad both in the convolution and cut off the rest is slower.
        above, left, right = (self.dilation[0] * num for num in (self.num_above, self.num_left, self.num_right))
        uneven = left - right
        if above or uneven:
            inputs = F.pad(inputs, (uneven, 0, above, 0))
        return F.conv2d(inputs, weight, bias, padding=(0, right), dilation=self.dilation)


def receptive_field(layers: Iterable[CausalConv2d], row: int, column: int, image_size: int) -> Tensor:
    """
    The pixels of an image of one channel that a chain of masked convolutions sees from one.

    Args:
        layers: the chain, from the image on.
        row: of the pixel, from 0.
        column: of the pixel, from 0.
        image_size: height and width.

    Returns:
        bool, (height, width).
    """
    needed = torch.zeros(1, image_size, image_size, dtype=torch.bool)
    needed[0, row, column] = True
    for layer in reversed(list(layers)):
        needed = layer.needed(needed)
    return needed[0]


class RowCache:
    """
    What one `CausalConv2d` has to know to go on from pixel to pixel: its inputs in the rows that its kernel spans, and
    what those above give to each pixel of the row at hand.

    Args:
        conv: the convolution.
        num: images.
        width: of the images.
    """

    def __init__(self, conv: CausalConv2d, num: int, width: int):
        self.weight, self.bias, self.dilation = conv.masked_weight(), conv.bias, conv.dilation[0]
        self.num_above, self.left = conv.num_above, self.dilation * conv.num_left
        height = self.dilation * self.num_above + 1
        columns = self.left + width + self.dilation * conv.num_right
        self.inputs = self.weight.new_zeros(num, conv.in_channels, height, columns)
        self.so_far = self.weight[:, :, -1, : conv.num_left + 1].flatten(1).T  # of the row so far, with the pixel
        self.above = self.bias[None, :, None].expand(num, -1, width)

    def next_row(self):
        """The next row begins: that at hand becomes one of those above."""
        if self.num_above:
            self.inputs = F.pad(self.inputs[:, :, 1:], (0, 0, 0, 1))
            rows = self.inputs[:, :, : self.dilation * (self.num_above - 1) + 1]
            self.above = F.conv2d(rows, self.weight[:, :, :-1], self.bias, dilation=self.dilation)[:, :, 0]

    def pixel(self, inputs: Tensor, column: int) -> Tensor:
        """
        The output at a pixel of the row at hand.

        Args:
            inputs: at it, (num, in_channels, 1, 1).
            column: its, from 0.

        Returns:
            (num, out_channels, 1, 1).
        """
        if self.left:
            self.write(inputs, column)
            window = self.inputs[:, :, -1, column : column + self.left + 1 : self.dilation].flatten(1)
        else:  # 1 x 1
            window = inputs[:, :, 0, 0]
        return torch.addmm(self.above[:, :, column], window, self.so_far)[:, :, None, None]

    def write(self, inputs: Tensor, column: int):
        """
        Keeps the input at a pixel of the row at hand.

        Args:
            inputs: at it, (num, in_channels, 1, 1).
            column: its, from 0.
        """
        self.inputs[:, :, -1, self.left + column] = inputs[:, :, 0, 0]

    def row(self, inputs: Tensor) -> Tensor:
        """The next row's outputs, (num, out_channels, 1, width), from its inputs, (num, in_channels, 1, width)."""
        self.inputs = F.pad(self.inputs[:, :, 1:], (0, 0, 0, 1))
        self.inputs[:, :, -1, self.left : self.left + inputs.shape[3]] = inputs[:, :, 0]
        return F.conv2d(self.inputs, self.weight, self.bias, dilation=self.dilation)


def _gate(values: Tensor) -> Tensor:
    """tanh(a) sigmoid(b) of the halves a and b of the channels (arXiv:1606.05328, equation 2)."""
    values, gates = values.chunk(2, dim=1)
    return values.clone().tanh() * gates.clone().sigmoid()  # copied: functions of a part of the channels are slow


class _ConvolutionalNetwork(nn.Module):
    """What both convolutional networks share: their last layers, and how an image is filled in pixel by pixel."""

    def __init__(self, config: AutoregressiveConfig):
        super().__init__()
        self.config = config
        self.groups = {"num_groups": config.num_channels}
        self.dilations = [config.dilations[i % len(config.dilations)] for i in range(config.num_layers)]
        hidden, last = config.head_hidden_size, config.num_channels * num_logits(config)
        self.head = nn.ModuleList([
            CausalConv2d(config.hidden_size, hidden, 1, "B", **self.groups),
            CausalConv2d(hidden, last, 1, "B", **self.groups),
        ])  # fmt: skip

    def add_class_embeddings(self, size: int):
        """One of a size for each layer and the first convolution; none without classes."""
        num, layers = self.config.num_classes, self.config.num_layers + 1
        self.classes = nn.ModuleList([nn.Embedding(num, size) for _ in range(layers)] if num else [])

    def plus_class(self, hidden: Tensor, layer: int, labels: Tensor | None) -> Tensor:
        """What a layer gives, (batch, size, height, width), with what the class adds to it."""
        return hidden if labels is None else hidden + self.classes[layer](labels)[:, :, None, None]

    def order(self) -> Tensor:
        """The place of each value in the order, int64, (channels, height, width)."""
        channels, size = self.config.num_channels, self.config.image_size
        return torch.arange(size * size * channels).view(size, size, channels).permute(2, 0, 1)

    def to_logits(self, hidden: Tensor, apply: Callable) -> Tensor:
        """(batch, hidden_size, height, width) -> (batch, channels, height, width, logits)"""
        for layer in self.head:
            hidden = apply(layer, hidden.relu())
        return hidden.unflatten(1, (self.config.num_channels, -1)).movedim(2, -1)

    def fill(self, pixels: Tensor, labels: Tensor | None, draw: Draw):
        """
        Draws the values of images one by one, in their order, into `pixels`.

        Args:
            pixels: (num, channels, height, width) in [-1, 1], written to in place.
            labels: of the images, (num,).
            draw: gives a value of all images, (num,), from its logits, (num, logits), channel, row and column.
        """
        num, channels, height, width = pixels.shape
        caches = {layer: RowCache(layer, num, width) for layer in self.modules() if isinstance(layer, CausalConv2d)}
        for row in range(height):
            above = pixels[:, :, row - 1 : row] if row else torch.zeros_like(pixels[:, :, :1])
            step = self.begin_row(above, labels, caches)
            for column in range(width):
                pixel = pixels[:, :, row : row + 1, column : column + 1]
                for channel in range(channels):
                    logits = step(pixel, column)[:, channel, 0, 0]
                    pixels[:, channel, row, column] = draw(logits, channel, row, column)
                # Of later layers all is known: type A leaves out the last value of a pixel.
                caches[self.reads_pixels()].write(pixel, column)


class PixelCNN(_ConvolutionalNetwork):
    """
    A convolution of type A and layers of convolutions of type B (arXiv:1601.06759, figures 4 and 5, table 1). Some
    pixels before one are out of its reach however many layers there are: those right of it that only a path through
    the rows above, to the right and down again, would meet.
    """

    def __init__(self, config: AutoregressiveConfig):
        super().__init__(config)
        hidden, inner = config.hidden_size, config.hidden_size // (2 if config.residual else 1)
        self.first = CausalConv2d(config.num_channels, hidden, config.first_kernel_size, "A", **self.groups)
        self.layers = nn.ModuleList()
        for dilation in self.dilations:
            layer = [CausalConv2d(inner, inner, config.kernel_size, "B", dilation=dilation, **self.groups)]
            if config.residual:
                layer.insert(0, CausalConv2d(hidden, inner, 1, "B", **self.groups))
                layer.append(CausalConv2d(inner, hidden, 1, "B", **self.groups))
            self.layers.append(nn.ModuleList(layer))
        self.add_class_embeddings(hidden)

    def forward(self, pixels: Tensor, labels: Tensor | None, apply: Callable = lambda layer, x: layer(x)) -> Tensor:
        """
        (batch, channels, height, width) in [-1, 1] -> logits, (batch, channels, height, width, logits).

        Args:
            pixels: the images, or one pixel of each.
            labels: of the images, (batch,).
            apply: gives the output of a convolution.
        """
        hidden = self.plus_class(apply(self.first, pixels), 0, labels)
        for index, convolutions in enumerate(self.layers, 1):
            output = hidden
            for convolution in convolutions:
                output = apply(convolution, output.relu())
            hidden = self.plus_class(hidden + output if self.config.residual else output, index, labels)
        return self.to_logits(hidden, apply)

    def begin_row(self, above: Tensor, labels: Tensor | None, caches: dict) -> Callable[[Tensor, int], Tensor]:
        """
        Begins the next row.

        Args:
            above: values of the row above it, (num, channels, 1, width).
            labels: (num,), of a conditional network.
            caches: a `RowCache` by convolution.

        Returns:
            Gives the logits at the row's pixels, from their values so far and their columns.
        """
        for cache in caches.values():
            cache.next_row()
        return lambda pixel, column: self(pixel, labels, lambda layer, x: caches[layer].pixel(x, column))

    def reads_pixels(self) -> CausalConv2d:
        """The convolution of type A."""
        return self.first

    def needed(self, outputs: Tensor) -> Tensor:
        """The values on which some logits depend: bool, (channels, height, width) both."""
        for layer in reversed(self.head):
            outputs = layer.needed(outputs)
        for convolutions in reversed(self.layers):
            inputs = outputs
            for convolution in reversed(convolutions):
                inputs = convolution.needed(inputs)
            outputs = inputs | outputs if self.config.residual else inputs
        return self.first.needed(outputs)


class _GatedLayer(nn.Module):
    """Figure 2 of arXiv:1606.05328: a vertical stack of the rows above and a horizontal one of the row so far."""

    def __init__(
        self, in_channels: int, hidden: int, kernel_size: int, mask_type: str, num_groups: int, dilation: int
    ):
        super().__init__()
        groups = {"num_groups": num_groups, "dilation": dilation}
        self.vertical = CausalConv2d(in_channels, 2 * hidden, kernel_size, "rows", halves=2, **groups)
        self.link = CausalConv2d(2 * hidden, 2 * hidden, 1, "rows", num_groups=num_groups)
        self.horizontal = CausalConv2d(in_channels, 2 * hidden, kernel_size, mask_type, row=True, halves=2, **groups)
        self.output = CausalConv2d(hidden, hidden, 1, "B", num_groups=num_groups)
        self.residual = mask_type == "B"

    def forward(self, inputs: Tensor, above: Tensor, apply: Callable) -> Tensor:
        """(batch, channels, height, width) of the horizontal stack, with what the vertical one gives there."""
        outputs = apply(self.output, _gate(apply(self.horizontal, inputs) + above))
        return inputs + outputs if self.residual else outputs


class GatedPixelCNN(_ConvolutionalNetwork):
    """
    Gated layers of two stacks each (arXiv:1606.05328, section 2): what the vertical one knows of the rows above
    reaches every pixel of a row, so that the receptive field is a rectangle, without a blind spot.
    """

    def __init__(self, config: AutoregressiveConfig):
        super().__init__(config)
        hidden, channels = config.hidden_size, config.num_channels
        self.layers = nn.ModuleList([_GatedLayer(channels, hidden, config.first_kernel_size, "A", channels, 1)])
        for dilation in self.dilations:
            self.layers.append(_GatedLayer(hidden, hidden, config.kernel_size, "B", channels, dilation))
        self.add_class_embeddings(2 * hidden)

    def forward(self, pixels: Tensor, labels: Tensor | None) -> Tensor:
        """(batch, channels, height, width) in [-1, 1] -> logits, (batch, channels, height, width, logits)."""
        above = F.pad(pixels, (0, 0, 1, 0))[:, :, :-1]  # a row down: the vertical stack knows nothing of a pixel's row
        apply = lambda layer, inputs: layer(inputs)  # noqa: E731
        return self._horizontal(pixels, self._vertical(above, labels, apply), apply)

    def _vertical(self, above: Tensor, labels: Tensor | None, apply: Callable) -> Iterator[Tensor]:
        """What the vertical stack gives to each layer of the horizontal one, from the row above each."""
        for index, layer in enumerate(self.layers):
            above = self.plus_class(apply(layer.vertical, _gate(above) if index else above), index, labels)
            yield layer.link(above)

    def _horizontal(self, pixels: Tensor, links: Iterable[Tensor], apply: Callable) -> Tensor:
        for layer, link in zip(self.layers, links, strict=True):
            pixels = layer(pixels, link, apply)
        return self.to_logits(pixels, apply)

    def begin_row(self, above: Tensor, labels: Tensor | None, caches: dict) -> Callable[[Tensor, int], Tensor]:
        """
        Begins the next row.

        Args:
            above: values of the row above it, (num, channels, 1, width).
            labels: (num,), of a conditional network.
            caches: a `RowCache` by convolution.

        Returns:
            Gives the logits at the row's pixels, from their values so far and their columns.
        """
        links = list(self._vertical(above, labels, lambda layer, x: caches[layer].row(x)))
        for layer in self.layers:
            caches[layer.horizontal].next_row()

        def step(pixel: Tensor, column: int) -> Tensor:
            links_here = [link[..., column : column + 1] for link in links]
            return self._horizontal(pixel, links_here, lambda layer, x: caches[layer].pixel(x, column))

        return step

    def reads_pixels(self) -> CausalConv2d:
        """The convolution of type A."""
        return self.layers[0].horizontal

    def needed(self, outputs: Tensor) -> Tensor:
        """The values on which some logits depend: bool, (channels, height, width) both."""
        for layer in reversed(self.head):
            outputs = layer.needed(outputs)
        above = torch.zeros_like(outputs)
        for layer in reversed(self.layers):
            inner = layer.output.needed(outputs)
            above = layer.vertical.needed(above | layer.link.needed(inner))
            outputs = layer.horizontal.needed(inner) | (outputs if layer.residual else torch.zeros_like(outputs))
        return outputs | F.pad(above, (0, 0, 0, 1))[:, 1:]


class MaskedLinear(nn.Module):
    """
    A linear layer that is told which of its weights it may use, with the parameters and initialisation of nn.Linear.
    It is none: what adapters, as PEFT's, add to such layers would pass by the mask.

    Args:
        size_in: of the input.
        size_out: of the output.
    """

    reset_parameters = nn.Linear.reset_parameters

    def __init__(self, size_in: int, size_out: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size_out, size_in))
        self.bias = nn.Parameter(torch.empty(size_out))
        self.reset_parameters()

    def forward(self, inputs: Tensor, mask: Tensor) -> Tensor:
        """(..., size_in), and (size_out, size_in), False or 0 where a weight is not used -> (..., size_out)"""
        return F.linear(inputs, self.weight * mask, self.bias)


class PatchNetwork(nn.Module):
    """
    The logits of the values of a patch, each given those before it in the patch and a context: a masked autoencoder
    (MADE, arXiv:1502.03509) of two hidden layers, to each of which the context is added. A patch of one value has a
    linear layer.

    Args:
        num_values: of a patch.
        context_size: of the context.
        hidden_size: units of each layer, at least `num_values`.
        num_logits: of each value.
    """

    def __init__(self, num_values: int, context_size: int, hidden_size: int, num_logits: int):
        super().__init__()
        self.num_values, self.num_logits = num_values, num_logits
        if num_values == 1:
            self.output = nn.Linear(context_size, num_logits)
            return
        self.context = nn.Linear(context_size, 2 * hidden_size)
        self.first = MaskedLinear(num_values, hidden_size)
        self.second = MaskedLinear(hidden_size, hidden_size)
        self.output = MaskedLinear(hidden_size, num_values * num_logits)

    def forward(self, values: Tensor, context: Tensor) -> Tensor:
        """(..., num_values) and (..., context_size) -> (..., num_values, num_logits)"""
        if self.num_values == 1:
            return self.output(context)[..., None, :]
        masks, (first, second) = self._masks(), self.context(context).chunk(2, dim=-1)
        hidden = self.first(values, masks[0]) + first
        hidden = self.second(hidden.relu(), masks[1]) + second
        return self.output(hidden.relu(), masks[2]).unflatten(-1, (self.num_values, -1))

    def filler(self) -> Callable:
        """
        The function that fills in patches value by value and computes each unit once: `fill(values, context, draw)`
        with the values, (num, num_values), written to in place, (num, context_size), and what gives the value at an
        index from its logits.
        """
        num, logits = self.num_values, self.num_logits
        if num == 1:
            return lambda values, context, draw: values.copy_(draw(self.output(context), 0)[:, None])
        layers = self.first, self.second, self.output
        first, second, output = (layer.weight * mask for layer, mask in zip(layers, self._masks(), strict=True))
        biases = self.output.bias.split(logits)
        weights = [(first[i::num].T, second[i::num].T, output[i * logits : (i + 1) * logits].T) for i in range(num)]

        def fill(values: Tensor, context: Tensor, draw: Callable[[Tensor, int], Tensor]):
            context = self.context(context) + torch.cat([self.first.bias, self.second.bias])
            contexts = context.unflatten(1, (2, -1)).unbind(1)
            hidden = [torch.zeros_like(each) for each in contexts]
            for index, (to_first, to_second, to_output) in enumerate(weights):
                places = slice(index, None, num)  # the units of this degree: all that they see is known by now
                hidden[0][:, places] = torch.addmm(contexts[0][:, places], values, to_first).relu()
                hidden[1][:, places] = torch.addmm(contexts[1][:, places], hidden[0], to_second).relu()
                values[:, index] = draw(torch.addmm(biases[index], hidden[1], to_output), index)

        return fill

    def _masks(self) -> tuple[Tensor, Tensor, Tensor]:
        """A unit of degree m knows the values before the m-th (equation 13); the degrees are 0, 1, ... in turn."""
        device = self.output.weight.device
        value = torch.arange(self.num_values, device=device)
        unit = torch.arange(self.second.weight.shape[1], device=device) % self.num_values
        target = value.repeat_interleave(self.num_logits)
        return unit[:, None] > value, unit[:, None] >= unit, target[:, None] >= unit


class PatchTransformer(nn.Module):
    """
    A causal transformer over patches in the order of reading (GPT-2's blocks; compare ImageGPT, Chen et al., 2020),
    and a small network for the values inside of one. Position t is given known patches, the (t-1)-th among them, and
    says what the t-th may be. By `neighbours` these are also the three above. The previous one is that of the order,
    not the one on the left: else the last patch of a row would never be seen.
    """

    def __init__(self, config: AutoregressiveConfig):
        super().__init__()
        self.config = config
        self.size = config.image_size // config.patch_size  # patches in a row
        self.num_values = config.num_channels * config.patch_size**2
        known = self.num_values * (4 if config.patch_context == "neighbours" else 1)
        self.embed = nn.Linear(known, config.hidden_size)
        self.transformer = GPT2Model(
            GPT2Config(
                vocab_size=max(1, config.num_classes),  # the embedding of the class, or of all images
                n_positions=self.size**2,
                n_embd=config.hidden_size,
                n_layer=config.num_layers,
                n_head=config.num_attention_heads,
                activation_function="gelu_pytorch_tanh",
                resid_pdrop=0.0,
                embd_pdrop=0.0,
                attn_pdrop=0.0,
                bos_token_id=None,
                eos_token_id=None,
                attn_implementation="eager" if self.size**2 <= SHORT else "sdpa",
            )
        )
        context = config.hidden_size + (known if config.patch_context == "neighbours" else 0)
        self.patch = PatchNetwork(self.num_values, context, config.head_hidden_size, num_logits(config))

    def forward(self, pixels: Tensor, labels: Tensor | None) -> Tensor:
        """(batch, channels, height, width) in [-1, 1] -> logits, (batch, channels, height, width, logits)."""
        if not len(pixels):  # which GPT-2 refuses
            return pixels.new_zeros(*pixels.shape, num_logits(self.config))
        patches = self._to_patches(pixels)  # (batch, patches, values)
        known = self._known(F.pad(patches.unflatten(1, (self.size, self.size)), (0, 0, 1, 1, 1, 0)), patches)
        hidden = self.transformer(inputs_embeds=self._embed(known, labels), use_cache=False).last_hidden_state
        return self._to_pixels(self.patch(patches, self._context(hidden, known)))

    def order(self) -> Tensor:
        """The place of each value in the order, int64, (channels, height, width)."""
        places = torch.arange(self.size**2 * self.num_values).view(1, self.size**2, self.num_values, 1)
        return self._to_pixels(places)[0, ..., 0]

    def reads_pixels(self) -> nn.Linear:
        """The layer that embeds known patches."""
        return self.embed

    def needed(self, outputs: Tensor) -> Tensor:
        """The values on which some logits depend: bool, (channels, height, width) both."""
        order = self.order().to(outputs.device)
        return order < order[outputs].max()

    def fill(self, pixels: Tensor, labels: Tensor | None, draw: Draw):
        """
        As that of the convolutional networks: keys and values of earlier positions are kept.

        Args:
            pixels: (num, channels, height, width), filled in place.
            labels: (num,), of a conditional network.
            draw: gives a value from its logits, channel, row and column.
        """
        if not len(pixels):
            return
        channels, side = self.config.num_channels, self.config.patch_size
        grid = pixels.new_zeros(
            pixels.shape[0], self.size + 1, self.size + 2, self.num_values
        )  # with a frame of nothing
        known, cache, fill = grid[:, 0, :1], {CACHE: DynamicCache()}, self.patch.filler()
        for i, j in itertools.product(range(self.size), repeat=2):
            if self.config.patch_context == "neighbours":
                known = torch.cat([known, *grid[:, i, None, j : j + 3].unbind(2)], -1)
            embedded = self._embed(known, labels)
            hidden = self.transformer(inputs_embeds=embedded, use_cache=True, **cache).last_hidden_state

            def draw_in_patch(logits: Tensor, index: int, top: int = i * side, left: int = j * side) -> Tensor:
                row, column, channel = index // channels // side, index // channels % side, index % channels
                return draw(logits, channel, top + row, left + column)

            patch = grid[:, i + 1, j + 1]
            fill(patch, self._context(hidden, known)[:, 0], draw_in_patch)
            known = patch[:, None]

    def _embed(self, known: Tensor, labels: Tensor | None) -> Tensor:
        label = labels if labels is not None else torch.zeros(len(known), dtype=torch.long, device=known.device)
        return self.embed(known) + self.transformer.wte(label)[:, None]

    def _context(self, hidden: Tensor, known: Tensor) -> Tensor:
        return torch.cat([hidden, known], -1) if self.config.patch_context == "neighbours" else hidden

    def _known(self, grid: Tensor, patches: Tensor) -> Tensor:
        """The known patches of each position, (batch, patches, values); `grid` has a frame of nothing."""
        previous = F.pad(patches, (0, 0, 1, 0))[:, :-1]
        if self.config.patch_context == "previous":
            return previous
        above = [grid[:, :-1, j : j + self.size].flatten(1, 2) for j in range(3)]
        return torch.cat([previous, *above], -1)

    def _to_patches(self, pixels: Tensor) -> Tensor:
        """(batch, channels, height, width) -> (batch, patches, values); the channels of a pixel follow each other."""
        side = self.config.patch_size
        rows = pixels.unflatten(2, (self.size, side)).unflatten(4, (self.size, side))
        return rows.permute(0, 2, 4, 3, 5, 1).reshape(pixels.shape[0], self.size**2, self.num_values)

    def _to_pixels(self, patches: Tensor) -> Tensor:
        """(batch, patches, values, n) -> (batch, channels, height, width, n)"""
        side, channels, size = self.config.patch_size, self.config.num_channels, self.config.image_size
        rows = patches.view(patches.shape[0], self.size, self.size, side, side, channels, -1)
        return rows.permute(0, 5, 1, 3, 2, 4, 6).reshape(patches.shape[0], channels, size, size, -1)


NETWORKS = {"pixelcnn": PixelCNN, "gated_pixelcnn": GatedPixelCNN, "patch_transformer": PatchTransformer}
