"""What one family of encoder-decoders is described by."""

from dataclasses import dataclass

__all__ = ["Seq2SeqFamily"]


@dataclass(frozen=True)
class Seq2SeqFamily:
    """A family of encoder-decoders.

    Attributes:
        model_types: transformers' names of its models.
        cross_attention: name of a decoder layer's module of cross-attention.
        key: its linear layer that makes keys of the encoder's output.
        value: and the one that makes values.
        scales_own_rows: whether the encoder scales the rows that it looks up itself, and not those that it
            is given (`inputs_embeds`). peft gives it the text's rows too, so under a prompt of rows they
            stay unscaled, in training as in generation, and here as well.
        looks_at_halves: whether its layers, in float16 alone, look at values to decide what to compute,
            which no exporter can follow.
    """

    model_types: tuple[str, ...]
    cross_attention: str = "encoder_attn"
    key: str = "k_proj"
    value: str = "v_proj"
    scales_own_rows: bool = False
    looks_at_halves: bool = False
